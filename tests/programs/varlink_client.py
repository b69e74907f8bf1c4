#!/usr/bin/env python3
"""Drives maqet with the unmodified `varlink` package from PyPI, as a script of a user would.

    varlink_client.py [--vm ID] [--call METHOD JSON]... [--events N] SOCKET SECRET_FILE

SECRET_FILE holds 64 hexadecimal digits. Every step prints one JSON object on a line of its own: `info`, `refused`
(a call before the handshake), `proven`, then `reply` or `error` for each --call, then `event` for each event of the
stream: the N first of one that follows, or without --events all that are kept. Exits 1 on anything unexpected.

Also an example of how to write a client: `handshake` is all there is beyond plain varlink.
"""

import argparse
import hashlib
import hmac
import itertools
import json
import secrets
import sys

import varlink


def proof(secret, label, hello, reply, role, vm):
    """HMAC-SHA-256 over length-prefixed texts, in this order."""
    fields = [
        label,
        hello["client_nonce"],
        reply["server_nonce"],
        str(reply["version"]),
        role,
        vm,
        str(hello.get("client_inode", 0)),
        str(reply["server_inode"]),
    ]
    mac = hmac.new(secret, digestmod=hashlib.sha256)
    for field in fields:
        text = field.encode()
        mac.update(len(text).to_bytes(4, "big") + text)
    return mac.hexdigest()


def handshake(connection, secret, role, vm):
    """Authenticates both ends; nothing is told to a server that cannot prove itself first."""
    hello = {"version": 1, "client_nonce": secrets.token_hex(32), "role": role, "vm": vm}
    reply = connection.Hello(**hello)
    if reply["version"] != 1 or reply["server_nonce"] == hello["client_nonce"]:
        sys.exit("the server answers nonsense")
    expected = proof(secret, "maqet/v1/server", hello, reply, role, vm)
    if not hmac.compare_digest(reply["server_proof"], expected):
        sys.exit("the server does not know the secret")
    connection.Prove(client_proof=proof(secret, "maqet/v1/client", hello, reply, role, vm))


def tell(step, **what):
    print(json.dumps({"step": step, **what}), flush=True)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vm", help="the socket is the one of this VM's runner")
    parser.add_argument("--call", nargs=2, action="append", default=[], metavar=("METHOD", "JSON"))
    parser.add_argument("--events", type=int, metavar="N")
    parser.add_argument("socket")
    parser.add_argument("secret_file")
    return parser.parse_args()


def refused_unproven(connection, method, parameters):
    try:
        getattr(connection, method)(**parameters)
    except varlink.VarlinkError as error:
        tell("refused", error=error.error(), parameters=error.parameters())
    else:
        sys.exit("a call was answered before the handshake")


def call(connection, method, parameters):
    try:
        tell("reply", method=method, reply=getattr(connection, method)(**parameters))
    except varlink.VarlinkError as error:
        tell("error", method=method, error=error.error(), parameters=error.parameters())


def main():
    asked = arguments()
    with open(asked.secret_file, encoding="ascii") as file:
        secret = bytes.fromhex(file.read().strip())
    role, vm = ("runner", asked.vm) if asked.vm else ("control", "")
    name = "org.maqet.Runner" if asked.vm else "org.maqet.Control"
    with varlink.Client.new_with_address("unix:" + asked.socket) as client:
        tell("info", interfaces=client.get_interfaces(), product=client.info["product"])
        with client.open(name) as connection:
            refused_unproven(connection, *(("Query", {}) if asked.vm else ("List", {})))
            handshake(connection, secret, role, vm)
            tell("proven")
            for method, parameters in asked.call:
                call(connection, method, json.loads(parameters))
            if asked.vm:
                stream, key = connection.Watch(_more=True), "fact"
            else:
                stream, key = connection.Events(_more=True, follow=asked.events is not None), "event"
            for reply in itertools.islice(stream, asked.events):
                tell("event", event=reply.get(key))


if __name__ == "__main__":
    main()
