"""TLS for a library that speaks clear text alone, as people have it: each master is a port of this machine, and what is said
there is said to the master by TLS, whose certificate has to be right."""

import socket
import ssl
import threading


def pipe(source, target):
    try:
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def through(master, authority):
    """HOST:PORT of the port for `master`."""
    host, port = master.rsplit(":", 1)
    context = ssl.create_default_context(cafile=authority)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(plain):
        try:
            secured = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
        except OSError:
            plain.close()
            return
        threading.Thread(target=pipe, args=(plain, secured), daemon=True).start()
        pipe(secured, plain)

    def accept():
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "127.0.0.1:%d" % listener.getsockname()[1]
