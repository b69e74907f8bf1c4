#!/usr/bin/env bash
# Talks to maqet with socat, openssl and jq alone: authenticates, makes one call, prints its replies one per line.
#
#     varlink_client.sh SOCKET SECRET_FILE CALL        CALL is a varlink call, for example
#     varlink_client.sh "$XDG_RUNTIME_DIR/maqet/control.sock" ~/.local/share/maqet/control.key \
#         '{"method":"org.maqet.Control.List"}'
#
# The secret never is on a command line, where every user could read it: HMAC is done by hand around `openssl dgst`.
set -euo pipefail

socket=$1 secret=$(<"$2") call=$3

# The secret, filled up to the block of SHA-256, each byte combined with $1.
pad() {
    local key at
    key=$secret$(printf '%064d' 0)
    for ((at = 0; at < 128; at += 2)); do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\x$(printf '%02x' $((16#${key:at:2} ^ $1)))"
    done
}

# A field of the transcript: four bytes of length, then the text.
field() {
    # shellcheck disable=SC2059
    printf "\\0\\0\\0\\x$(printf '%02x' ${#1})"
    printf '%s' "$1"
}

# Proof of side $1.
proof() {
    local text
    {
        pad 0x5c
        {
            pad 0x36
            for text in "maqet/v1/$1" "$client_nonce" "$server_nonce" 1 control "" 0 "$server_inode"; do
                field "$text"
            done
        } | openssl dgst -sha256 -binary
    } | openssl dgst -sha256 -r | cut -c 1-64
}

# Reads one reply; fails on an error.
reply() {
    IFS= read -r -d '' answer <&"${maqet[0]}"
    jq -e ".error == null" <<<"$answer" >/dev/null || { printf '%s\n' "$answer" >&2; exit 1; }
}

coproc maqet { socat -t 3600 - "UNIX-CONNECT:$socket"; }
trap 'kill "$maqet_PID" 2>/dev/null || true' EXIT

client_nonce=$(openssl rand -hex 32)
printf '{"method":"org.maqet.Control.Hello","parameters":{"version":1,"client_nonce":"%s"}}\0' \
    "$client_nonce" >&"${maqet[1]}"
reply
server_nonce=$(jq -r .parameters.server_nonce <<<"$answer")
server_inode=$(jq -r .parameters.server_inode <<<"$answer")
if [[ $(jq -r .parameters.server_proof <<<"$answer") != "$(proof server)" || $server_nonce == "$client_nonce" ]]; then
    echo "the server does not know the secret" >&2
    exit 1
fi
printf '{"method":"org.maqet.Control.Prove","parameters":{"client_proof":"%s"}}\0' "$(proof client)" >&"${maqet[1]}"
reply

printf '%s\0' "$call" >&"${maqet[1]}"
while reply; do
    jq -c .parameters <<<"$answer"
    jq -e .continues <<<"$answer" >/dev/null || break
done
