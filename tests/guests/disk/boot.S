/*
 * Boot sector of a disk, or boot image of a CD-ROM: says on the first serial port what it booted from, then what the second
 * sector of every disk of the firmware says, then `all read`. The words are texts that end with NUL: the first at offset
 * 0x100 of this sector, the others at the start of theirs. Assembled and completed by tests/e2e/boots.rs.
 */
.code16
.globl _start
_start:
    xor %ax,%ax
    mov %ax,%ds
    mov %ax,%es
    mov %ax,%ss
    mov $0x7c00,%sp
    cld
    mov $0x7d00,%si
    call puts
    mov $0x80,%dl
next:
    mov $dap-_start+0x7c00,%si
    mov $0x42,%ah
    int $0x13
    jc done
    mov $0x7e00,%si
    call puts
    inc %dl
    jmp next
done:
    mov $end-_start+0x7c00,%si
    call puts
halt:
    hlt
    jmp halt
puts:
    lodsb
    test %al,%al
    jz back
    push %dx
    mov %al,%bl
    mov $0x3fd,%dx
wait:
    in %dx,%al
    test $0x20,%al
    jz wait
    mov $0x3f8,%dx
    mov %bl,%al
    out %al,%dx
    pop %dx
    jmp puts
back:
    ret
dap: .byte 16,0
    .word 1, 0x7e00, 0
    .quad 1
end: .asciz "all read\n"
