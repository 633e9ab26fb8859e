"""What is looked at before Ray is asked: Ray itself would wait, or try again, for a long time."""

import os
import socket
from urllib.parse import urlsplit

from nuclei.errors import InputError

EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with a frame of this kind an HTTP/2 connection starts


def check_port() -> None:
    """Look whether a local Ray can have the port that it was given, if it was given one.

    Raises:
        InputError: Others have the port, or it is none: Ray would wait for itself in vain.
    """
    port = os.environ.get("RAY_GCS_SERVER_PORT", "0")  # 0: any that is free
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"RAY_GCS_SERVER_PORT: Ray cannot use port {port} ({error}): unset it") from None


def check_connection(address: str) -> None:
    """Look whether a server of Ray's kind (gRPC) answers.

    Args:
        address: As in RAY_ADDRESS: host:port, or auto, which is not looked at.

    Raises:
        InputError: Something else answers there, or nothing does.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"RAY_ADDRESS: {address} is for Ray Client, which has no part in the cluster: run on a machine of the "
            "cluster and give its head's host:port (see docs/cluster.md)"
        )
    try:
        url = urlsplit(address if "://" in address else f"//{address}")
        if not url.port:  # auto
            return
        with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":  # says nothing in the clear
                return
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EMPTY_SETTINGS)  # RFC 9113, section 3.4
            if connection.recv(9)[3:4] != EMPTY_SETTINGS[3:4]:
                raise OSError("something else answers there")
    except (OSError, ValueError) as error:  # ValueError: a port that is none
        raise InputError(
            f"RAY_ADDRESS: no Ray at {address} ({error}): give the host:port of a head, or unset it to use this machine"
        ) from None
