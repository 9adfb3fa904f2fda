"""Print the address of a user interface that is about to start, or say that its port is taken (used by the Makefile)."""

import socket
import sys


def main(name: str, host: str, port: str) -> int:
    """Return 0 where the port is free, else 1."""
    if not port.isdigit() or not 0 < int(port) < 65536:
        print(f"PORT={port} is no port: give a number from 1 to 65535", file=sys.stderr)
        return 1
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            print(
                f"{host}:{port} cannot be used ({error.strerror}): end the process that has it, or choose another port "
                f"with PORT={min(int(port) + 1, 65535)}",
                file=sys.stderr,
            )
            return 1
    print(f"{name}: http://{host}:{port} (only this machine can reach it; Ctrl-C ends it)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
