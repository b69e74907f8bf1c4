# tiny.S: the smallest guest that can be booted, talked to, shut down and crashed.
#
# Loaded by QEMU as firmware (`-bios`), so it runs 20 ms after QEMU was started and needs no kernel, no disk and no
# boot loader. It drives what tests ask about: the first serial port, the timer, the ACPI power button of the
# machines `pc` and `q35`, the first IDE disk of `pc`, the panic device. It sleeps in HLT whenever there is nothing to
# do, and the timer runs only when an option needs it: fifty of these cost a host next to nothing.
#
# What it prints (every line ends in CR LF):
#   maqet tiny guest ready      always, first
#   power button                the button was pressed
#   powering off                written just before it switches the machine off
#   power button ignored        the button was pressed and `ignore-acpi` is set
#   tick N                      every 54.9 ms, N counts from 1 (`ticks`)
#   wrote N sectors             (`write`); `no disk` or `disk error` if that failed
#   flood N ...                 as fast as the serial port takes it (`flood`)
#   unknown option W            a word that is not in the list below
#   no power management         neither power management chip was found, so it cannot switch off
# Whatever arrives on the serial port is echoed, byte by byte.
#
# Options are words in the fw_cfg file `opt/maqet/tiny`, separated by single or several spaces, 255 bytes at most:
#   -fw_cfg name=opt/maqet/tiny,string="ticks ignore-acpi"
#   ticks          print a line at every timer tick
#   ignore-acpi    do not power off on the power button
#   write          write SECTORS sectors of text to the first IDE disk, without a flush (machine `pc`)
#   flood          print forever
#   panic          tell the pvpanic device that the guest has panicked
#   poweroff       power off
#   reset          reset the machine, one tick after the ready line (so a boot loop makes 18 rounds a second)
#   triple-fault   crash the CPU, one tick after the ready line
#   later          wait LATER_TICKS more before the last four, and between the power button and switching off
#
# Syntax: GNU as, AT&T (source first). 16-bit real mode throughout. Interrupts are off except in the one HLT of the
# main loop, so no routine but the two interrupt handlers has to expect one.

        .code16
        .text
        .globl  _start

# ---------------------------------------------------------------------------------------------------------------
# Constants
# ---------------------------------------------------------------------------------------------------------------
        .set    ROM, 0xf000             # segment where the last 64 KiB of the firmware appear below 1 MiB

        # Variables: plain low memory above the interrupt vectors, reached with DS = ES = SS = 0.
        .set    options, 0x0500         # word: option bits, see OPT_* below
        .set    pm_base, 0x0502         # word: I/O base of the power management block, 0 = none found
        .set    ticks, 0x0504           # dword: timer ticks since the start; written by the tick handler
        .set    told, 0x0508            # dword: ticks already printed
        .set    due, 0x050c             # dword: tick at which the actions in `pending` happen
        .set    pending, 0x0510         # word: what is going to end the machine, OPT_* bits
        .set    floods, 0x0514          # dword: flood lines printed
        .set    text, 0x0600            # 256 bytes: the options as text, ended by NUL
        .set    entry, 0x0700           # 64 bytes: one entry of the fw_cfg directory
        .set    sector, 0x0800          # 512 bytes: what is written to the disk
        .set    stack, 0x7000           # grows down

        .set    OPT_TICKS, 0x0001
        .set    OPT_IGNORE, 0x0002
        .set    OPT_WRITE, 0x0004
        .set    OPT_FLOOD, 0x0008
        .set    OPT_PANIC, 0x0010
        .set    OPT_POWEROFF, 0x0020
        .set    OPT_RESET, 0x0040
        .set    OPT_TRIPLE, 0x0080
        .set    OPT_LATER, 0x0100
        .set    OPT_ENDING, OPT_PANIC | OPT_POWEROFF | OPT_RESET | OPT_TRIPLE
        .set    OPT_TIMED, OPT_TICKS | OPT_RESET | OPT_TRIPLE | OPT_LATER       # these need the timer

        .set    SECTORS, 64             # sectors that `write` writes: 32 KiB, half a qcow2 cluster
        .set    LATER_TICKS, 18         # 18 ticks of 54.9 ms: 0.99 s

        .set    COM1, 0x3f8             # serial port: data; +1 interrupt enable, +2 FIFO, +3 line, +4 modem control
        .set    COM1_STATUS, 0x3fd      # bit 0: a byte has arrived; bit 5: ready to send
        .set    PM_BASE, 0x0600         # where we put the power management block: +0 status, +2 enable, +4 control
        .set    POWER_BUTTON, 0x0100    # bit 8 of status and enable
        .set    FW_CFG, 0x0510          # selector port; data port is the next one
        .set    IDE, 0x01f0             # first IDE channel: +0 data ... +6 drive, +7 status and command
        .set    PANIC_PORT, 0x0505      # pvpanic; bit 0: panicked

# ---------------------------------------------------------------------------------------------------------------
# Start
# ---------------------------------------------------------------------------------------------------------------
_start:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $stack, %sp

        # Memory keeps its content over a reset: clear everything we read before writing.
        movw    $options, %di
        movw    $(text - options) / 2, %cx
        rep stosw

        call    set_up_serial           # first, so that the ready line comes as early as possible
        call    set_up_interrupts
        call    read_options
        call    set_up_power            # before the ready line: a button pressed after it must count
        movw    $s_ready, %si
        call    print
        call    parse_options
        call    set_up_timer
        call    plan_ending
        testw   $OPT_WRITE, options
        jz      main
        call    write_disk

# ---------------------------------------------------------------------------------------------------------------
# Main loop: look at every device, then sleep until one of them interrupts.
# An interrupt that comes while we look stays pending (interrupts are off) and ends the HLT at once: none is missed.
# ---------------------------------------------------------------------------------------------------------------
main:
        call    echo_serial
        call    check_power_button
        call    print_ticks
        call    end_if_due
        testw   $OPT_FLOOD, options
        jnz     1f
        sti                             # takes effect after the next instruction: nothing can slip in before HLT
        hlt
        cli
        jmp     main
1:      call    print_flood
        sti                             # a window for the timer; STI itself delays interrupts by one instruction
        nop
        cli
        jmp     main

# ---------------------------------------------------------------------------------------------------------------
# Interrupts: the handlers only wake the main loop up.
# ---------------------------------------------------------------------------------------------------------------
set_up_interrupts:
        xorw    %di, %di                # all 256 vectors do nothing ...
        movw    $256, %cx
1:      movw    $on_nothing, %ax
        stosw
        movw    $ROM, %ax
        stosw
        loop    1b
        movw    $on_tick, 0x08 * 4      # ... but the timer (IRQ 0),
        movw    $on_first_pic, 0x0c * 4 # the serial port (IRQ 4)
        movw    $on_second_pic, 0x71 * 4 # and power management (IRQ 9)

        movb    $0x11, %al              # both interrupt controllers: initialise, edge triggered, four words
        outb    %al, $0x20
        outb    %al, $0xa0
        movb    $0x08, %al              # IRQ 0-7 are vectors 0x08-0x0f
        outb    %al, $0x21
        movb    $0x70, %al              # IRQ 8-15 are vectors 0x70-0x77
        outb    %al, $0xa1
        movb    $0x04, %al              # the second one hangs on IRQ 2 of the first
        outb    %al, $0x21
        movb    $0x02, %al
        outb    %al, $0xa1
        movb    $0x01, %al              # 8086 mode
        outb    %al, $0x21
        outb    %al, $0xa1
        movb    $0xeb, %al              # first: only IRQ 2 (the second one) and IRQ 4; set_up_timer adds IRQ 0
        outb    %al, $0x21
        movb    $0xfd, %al              # second: only IRQ 9
        outb    %al, $0xa1

        # After a reset the CPU's own interrupt controller (APIC) is deaf to those two. Its registers lie near 4 GiB,
        # out of reach of real mode, unless a segment keeps a limit of 4 GiB from a visit to protected mode.
        movl    $1, %eax
        cpuid
        testw   $0x0200, %dx            # feature bit 9: there is one
        jz      2f
        lgdtl   %cs:flat_table
        movl    %cr0, %eax
        orb     $0x01, %al              # protected mode on ...
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %fs                # ... FS gets base 0 and limit 4 GiB ...
        andb    $0xfe, %al
        movl    %eax, %cr0              # ... and off again; FS keeps its limit
        movl    $0xfee000f0, %ebx       # spurious vector register: vector 0xff, controller on
        movl    $0x01ff, %fs:(%ebx)
        movl    $0xfee00350, %ebx       # line 0: pass on what the other controllers say
        movl    $0x0700, %fs:(%ebx)
2:      ret

on_tick:
        incl    ticks                   # DS is 0 everywhere
        jmp     on_first_pic
on_second_pic:
        pushw   %ax
        movb    $0x20, %al              # end of interrupt for the second controller, then for the first
        outb    %al, $0xa0
        popw    %ax
on_first_pic:
        pushw   %ax
        movb    $0x20, %al
        outb    %al, $0x20
        popw    %ax
on_nothing:
        iret

# Timer, channel 0: the slowest rate there is (1193182 Hz / 65536 = 18.2 Hz) if an option needs it. Otherwise it is
# stopped, since even a tick nobody listens to wakes QEMU: one shot, which then stays over.
set_up_timer:
        movb    $0x10, %al              # channel 0, low byte only, one shot
        movb    $1, %ah
        testw   $OPT_TIMED, options
        jz      1f
        inb     $0x21, %al
        andb    $0xfe, %al              # let IRQ 0 through
        outb    %al, $0x21
        movb    $0x14, %al              # channel 0, low byte only, rate generator
        xorb    %ah, %ah                # 0 stands for 65536
1:      outb    %al, $0x43
        movb    %ah, %al
        outb    %al, $0x40
        ret

# ---------------------------------------------------------------------------------------------------------------
# Serial port
# ---------------------------------------------------------------------------------------------------------------
set_up_serial:
        movw    $COM1 + 3, %dx
        movb    $0x80, %al              # the first two registers become the divisor
        outb    %al, %dx
        movw    $COM1, %dx
        movb    $1, %al                 # 115200 baud
        outb    %al, %dx
        incw    %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $COM1 + 3, %dx
        movb    $0x03, %al              # 8 data bits, no parity, 1 stop bit
        outb    %al, %dx
        movw    $COM1 + 2, %dx
        movb    $0x07, %al              # FIFOs on and empty, interrupt at the first byte
        outb    %al, %dx
        movw    $COM1 + 4, %dx
        movb    $0x0b, %al              # DTR, RTS, and OUT2, which lets the interrupt through
        outb    %al, %dx
        movw    $COM1 + 1, %dx
        movb    $0x01, %al              # interrupt when a byte arrives
        outb    %al, %dx
        ret

# Sends back everything that has arrived.
echo_serial:
        movw    $COM1_STATUS, %dx
        inb     %dx, %al
        cmpb    $0xff, %al              # all ones: there is no serial port
        je      1f
        testb   $0x01, %al
        jz      1f
        movw    $COM1, %dx
        inb     %dx, %al
        call    put
        jmp     echo_serial
1:      ret

# Sends the byte in AL. Keeps all registers.
put:
        pushw   %dx
        pushw   %ax
        movw    $COM1_STATUS, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popw    %ax
        movw    $COM1, %dx
        outb    %al, %dx
        popw    %dx
        ret

# Sends the text at ROM:SI, ended by NUL. Changes AX and SI.
print:
        lodsb   %cs:(%si), %al
        testb   %al, %al
        jz      1f
        call    put
        jmp     print
1:      ret

# Sends EAX as a decimal number. Changes EAX, EBX, CX, EDX.
print_number:
        movl    $10, %ebx
        xorw    %cx, %cx
1:      xorl    %edx, %edx              # digits come last first: park them on the stack
        divl    %ebx
        pushw   %dx
        incw    %cx
        testl   %eax, %eax
        jnz     1b
2:      popw    %ax
        addb    $'0', %al
        call    put
        loop    2b
        ret

# ---------------------------------------------------------------------------------------------------------------
# Options, from QEMU's fw_cfg device
# ---------------------------------------------------------------------------------------------------------------

# Reads the file `opt/maqet/tiny` to `text`; an absent device or file leaves it empty.
read_options:
        movb    $0, text
        xorw    %ax, %ax                # item 0 is the device's signature
        movw    $entry, %di
        movw    $4, %cx
        call    select_item
        rep insb
        cmpl    $0x554d4551, entry      # "QEMU"
        jne     4f
        movw    $0x19, %ax              # item 0x19 is the directory: a big-endian count, then 64 bytes per file
        movw    $entry, %di
        movw    $4, %cx
        call    select_item
        rep insb
        movw    entry + 2, %bp          # the low half of the count is plenty
        xchgw   %bp, %ax
        xchgb   %al, %ah
        xchgw   %bp, %ax
1:      testw   %bp, %bp
        jz      4f
        decw    %bp
        movw    $entry, %di             # size (4 bytes), item (2), reserved (2), name (56), numbers big-endian
        movw    $64, %cx
        rep insb
        movw    $s_file, %si
        movw    $entry + 8, %di
        movw    $s_file_end - s_file, %cx
2:      movb    %cs:(%si), %al
        cmpb    (%di), %al
        jne     1b
        incw    %si
        incw    %di
        loop    2b

        movw    entry + 2, %cx
        xchgb   %cl, %ch
        cmpw    $255, %cx
        jbe     3f
        movw    $255, %cx
3:      movw    entry + 4, %ax
        xchgb   %al, %ah
        movw    $text, %di
        call    select_item
        rep insb
        movb    $0, (%di)
4:      ret

# Makes item AX the one that the data port reads from the beginning; leaves that port in DX.
select_item:
        movw    $FW_CFG, %dx
        outw    %ax, %dx
        incw    %dx
        ret

# Turns the words in `text` into bits of `options`.
parse_options:
        movw    $text, %si
1:      cmpb    $' ', (%si)
        jne     2f
        incw    %si
        jmp     1b
2:      cmpb    $0, (%si)
        je      5f
        movw    $words, %di             # each entry: length, letters, bit
3:      movzbw  %cs:(%di), %cx
        incw    %di
        jcxz    6f                      # length 0 ends the list: unknown word
        movw    %si, %bx
        movw    %cx, %bp
4:      movb    %cs:(%di), %al
        cmpb    (%bx), %al
        jne     7f
        incw    %bx
        incw    %di
        loop    4b
        cmpb    $' ', (%bx)             # the letters agree; the word must end here too
        ja      8f
        movw    %cs:(%di), %ax
        orw     %ax, options
        movw    %bx, %si
        jmp     1b
5:      ret
6:      pushw   %si
        movw    $s_unknown, %si
        call    print
        popw    %si
9:      movb    (%si), %al
        cmpb    $' ', %al
        jbe     10f
        call    put
        incw    %si
        jmp     9b
10:     pushw   %si
        movw    $s_end, %si
        call    print
        popw    %si
        jmp     1b
7:      addw    %cx, %di                # skip the letters not looked at
8:      addw    $2, %di                 # and the bit
        jmp     3b

# ---------------------------------------------------------------------------------------------------------------
# Power management
# ---------------------------------------------------------------------------------------------------------------

# Finds the chip, gives its registers an address, and asks for the power button.
set_up_power:
        movl    $0x80000b00, %eax       # bus 0, device 1, function 3
        call    read_pci
        cmpl    $0x71138086, %eax       # PIIX4, the chip of `pc`
        jne     1f
        movl    $0x80000b40, %eax       # register 0x40: address, bit 0 says I/O
        movl    $PM_BASE | 1, %ebx
        call    write_pci
        movl    $0x80000b80, %eax       # register 0x80: bit 0 switches the registers on
        movb    $0x01, %bl
        jmp     2f
1:      movl    $0x8000f800, %eax       # bus 0, device 31, function 0
        call    read_pci
        cmpl    $0x29188086, %eax       # ICH9, the chip of `q35`
        jne     3f
        movl    $0x8000f840, %eax       # register 0x40: address
        movl    $PM_BASE | 1, %ebx
        call    write_pci
        movl    $0x8000f844, %eax       # register 0x44: bit 7 switches on; bits 0-2 zero make it IRQ 9
        movb    $0x80, %bl
2:      movw    $0xcf8, %dx             # a byte, not a dword: the neighbours are other registers
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movb    %bl, %al
        outb    %al, %dx
        movw    $PM_BASE, pm_base
        movw    $PM_BASE, %dx
        movw    $0xffff, %ax            # writing ones clears what is left over in the status
        outw    %ax, %dx
        addw    $2, %dx
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx
        ret
3:      movw    $s_no_power, %si
        call    print
        ret

# EAX: a PCI configuration address (bit 31, bus, device, function, register). Answers in EAX.
read_pci:
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        inl     %dx, %eax
        ret

# Writes EBX to the PCI configuration address in EAX.
write_pci:
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movl    %ebx, %eax
        outl    %eax, %dx
        ret

# Answers a press of the power button.
check_power_button:
        movw    pm_base, %dx
        testw   %dx, %dx
        jz      1f
        inw     %dx, %ax
        testw   $POWER_BUTTON, %ax
        jz      1f
        movw    $POWER_BUTTON, %ax      # writing the one clears it, and with it the interrupt
        outw    %ax, %dx
        testw   $OPT_IGNORE, options
        jnz     2f
        movw    $s_button, %si
        call    print
        orw     $OPT_POWEROFF, pending
        movl    ticks, %eax
        testw   $OPT_LATER, options
        jz      3f
        addl    $LATER_TICKS, %eax
3:      movl    %eax, due
1:      ret
2:      movw    $s_ignored, %si
        call    print
        ret

# ---------------------------------------------------------------------------------------------------------------
# Ends: panic, reset, triple fault, power off
# ---------------------------------------------------------------------------------------------------------------

# From the options: what is going to happen, and at which tick.
plan_ending:
        movw    options, %ax
        andw    $OPT_ENDING, %ax
        movw    %ax, pending
        xorl    %ebx, %ebx
        testw   $OPT_RESET | OPT_TRIPLE, %ax
        jz      1f
        incl    %ebx                    # no boot loop at full speed
1:      testw   $OPT_LATER, options
        jz      2f
        addl    $LATER_TICKS, %ebx
2:      movl    %ebx, due
        ret

end_if_due:
        movw    pending, %bx
        testw   %bx, %bx
        jz      1f
        movl    ticks, %eax
        cmpl    due, %eax
        jae     2f
1:      ret
2:      movw    $0, pending
        testw   $OPT_PANIC, %bx
        jz      3f
        movw    $PANIC_PORT, %dx        # QEMU may stop the CPU here; if it is let run again, the rest follows
        movb    $1, %al
        outb    %al, %dx
3:      testw   $OPT_RESET, %bx
        jnz     reset
        testw   $OPT_TRIPLE, %bx
        jnz     triple_fault
        testw   $OPT_POWEROFF, %bx
        jnz     power_off
        ret

reset:
        movw    $0xcf9, %dx             # the chipset's reset register: reset CPU, now
        movb    $0x06, %al
        outb    %al, %dx
        sti                             # asked twice, the machine may reset twice: give it a tick for the first
        hlt
        movb    $0xfe, %al              # the keyboard controller's way, where the first one is missing
        outb    %al, $0x64
        jmp     stop

triple_fault:
        lidtl   %cs:no_vectors          # without vectors the next interrupt faults, and so does its fault
        int3
        jmp     stop

power_off:
        movw    $s_off, %si
        call    print
        movw    pm_base, %dx
        testw   %dx, %dx
        jz      1f
        addw    $4, %dx
        movw    $0x2000, %ax            # sleep enable, sleep type 0: soft off on both chips
        outw    %ax, %dx
1:      jmp     stop

# The machine is gone or going; without interrupts this sleeps for good.
stop:
        cli
        hlt
        jmp     stop

# ---------------------------------------------------------------------------------------------------------------
# Ticks and floods
# ---------------------------------------------------------------------------------------------------------------
print_ticks:
        testw   $OPT_TICKS, options
        jz      1f
        movl    told, %eax
        cmpl    ticks, %eax
        jae     1f
        incl    told
        movw    $s_tick, %si
        call    print
        movl    told, %eax
        call    print_number
        movw    $s_end, %si
        call    print
        jmp     print_ticks
1:      ret

print_flood:
        incl    floods
        movw    $s_flood, %si
        call    print
        movl    floods, %eax
        call    print_number
        movw    $s_flood_rest, %si
        call    print
        ret

# ---------------------------------------------------------------------------------------------------------------
# Disk: programmed I/O, one sector per command, and no flush: what QEMU caches stays cached.
# Every sector holds `maqet-sect-NNNN` and a line feed, 32 times; NNNN is its number.
# ---------------------------------------------------------------------------------------------------------------
write_disk:
        movw    $IDE + 7, %dx
        inb     %dx, %al
        testb   %al, %al                # zero: a channel without drives; all ones: no channel
        jz      3f
        cmpb    $0xff, %al
        je      3f
        xorw    %bp, %bp                # BP counts the sectors
1:      call    fill_sector
        movw    $IDE + 6, %dx
        movb    $0xe0, %al              # first drive, addresses are sector numbers
        outb    %al, %dx
        movw    $IDE + 2, %dx
        movb    $1, %al                 # one sector
        outb    %al, %dx
        incw    %dx
        movw    %bp, %ax                # its number: 8 of 28 bits are enough
        outb    %al, %dx
        xorb    %al, %al
        incw    %dx
        outb    %al, %dx
        incw    %dx
        outb    %al, %dx
        movw    $IDE + 7, %dx
        movb    $0x30, %al              # write sectors
        outb    %al, %dx
        call    wait_disk
        testb   $0x08, %al              # it asks for the data, or something is wrong
        jz      4f
        movw    $IDE, %dx
        movw    $sector, %si
        movw    $256, %cx
        rep outsw
        call    wait_disk
        testb   $0x21, %al              # error or device fault
        jnz     4f
        incw    %bp
        cmpw    $SECTORS, %bp
        jb      1b

        movw    $s_wrote, %si
        call    print
        movl    $SECTORS, %eax
        call    print_number
        movw    $s_sectors, %si
        jmp     print
3:      movw    $s_no_disk, %si
        jmp     print
4:      movw    $s_disk_error, %si
        jmp     print

# Waits until the drive is not busy; answers its status in AL.
wait_disk:
        movw    $IDE + 7, %dx
1:      inb     %dx, %al
        testb   $0x80, %al
        jnz     1b
        ret

# Fills `sector` for the sector BP.
fill_sector:
        movw    $sector, %di
1:      movw    $s_sector, %si
        movw    $11, %cx
2:      lodsb   %cs:(%si), %al
        stosb
        loop    2b
        movw    %bp, %ax                # SECTORS is below 100: two zeros and two digits
        aam                             # AH = AL / 10, AL = AL % 10
        addw    $0x3030, %ax
        movw    $0x3030, (%di)
        movb    %ah, 2(%di)
        movb    %al, 3(%di)
        movb    $'\n', 4(%di)
        addw    $5, %di
        cmpw    $sector + 512, %di
        jb      1b
        ret

# ---------------------------------------------------------------------------------------------------------------
# Texts and tables
# ---------------------------------------------------------------------------------------------------------------
s_ready:        .asciz  "maqet tiny guest ready\r\n"
s_no_power:     .asciz  "no power management\r\n"
s_button:       .asciz  "power button\r\n"
s_ignored:      .asciz  "power button ignored\r\n"
s_off:          .asciz  "powering off\r\n"
s_tick:         .asciz  "tick "
s_end:          .asciz  "\r\n"
s_flood:        .asciz  "flood "
s_flood_rest:   .asciz  " the quick brown fox jumps over the lazy dog\r\n"
s_wrote:        .asciz  "wrote "
s_sectors:      .asciz  " sectors\r\n"
s_no_disk:      .asciz  "no disk\r\n"
s_disk_error:   .asciz  "disk error\r\n"
s_unknown:      .asciz  "unknown option "
s_sector:       .ascii  "maqet-sect-"
s_file:         .asciz  "opt/maqet/tiny"        # compared with its NUL, so a longer name is another file
s_file_end:

        .macro  option name, bit
        .byte   2f - 1f
1:      .ascii  "\name"
2:      .word   \bit
        .endm
words:
        option  ticks, OPT_TICKS
        option  ignore-acpi, OPT_IGNORE
        option  write, OPT_WRITE
        option  flood, OPT_FLOOD
        option  panic, OPT_PANIC
        option  poweroff, OPT_POWEROFF
        option  reset, OPT_RESET
        option  triple-fault, OPT_TRIPLE
        option  later, OPT_LATER
        .byte   0

        # Segment table: the empty entry every table starts with, then data, base 0, limit 4 GiB.
        .balign 8
flat:   .quad   0
        .quad   0x00cf92000000ffff
flat_table:
        .word   flat_table - flat - 1   # size - 1
        .long   ROM * 16 + flat         # address

no_vectors:
        .word   0                       # an interrupt table of no bytes
        .long   0

# ---------------------------------------------------------------------------------------------------------------
# Reset vector: the CPU starts 16 bytes below the end of the image.
# ---------------------------------------------------------------------------------------------------------------
        .org    0xfff0, 0xff
        ljmpw   $ROM, $_start           # from the copy below 4 GiB to the one below 1 MiB
        .org    0x10000, 0xff
