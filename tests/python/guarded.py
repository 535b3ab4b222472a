"""A receiver that asks for tokens, and requests as raw as an attacker sends them."""

import contextlib
import json
import socket
import subprocess

import harness
import viewing


def new_token(path, role, name):
    command = [harness.ronchi_binary(), "token", "new", "--file", path, "--role", role, "--name", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Receiver(viewing.Receiver):
    """As `viewing.Receiver`, with a token for each role; requests of `get` carry the one that may look."""

    def __init__(self, folder, data_port):
        super().__init__(folder, data_port)
        tokens = folder / "tokens"
        self.read = new_token(tokens, "read", "screen")
        self.control = new_token(tokens, "control", "alice")
        config = folder / "seen.toml"
        config.write_text(config.read_text() + f'[live.auth]\ntokens = "{tokens}"\n')

    def get(self, path):
        status, body = self.ask("GET", path, self.read)
        assert status == 200, f"{path}: {status} {body}"
        return body

    def ask(self, method, path, token=None, body=None, headers=()):
        """Status and body of the answer; `body` becomes JSON unless it is bytes."""
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", *headers, "connection: close", f"content-length: {len(payload)}"]
        if not any(line.lower().startswith("host:") for line in headers):
            lines.append("host: localhost")
        if token:
            lines.append(f"authorization: Bearer {token}")
        if payload:
            lines.append("content-type: application/json")
        return self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)

    def send(self, request):
        """Status and body of the answer to these bytes; 0 when the server only closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as stream:
            answer = b""
            with contextlib.suppress(ConnectionError):  # It may answer and close before it has everything.
                stream.sendall(request)
            with contextlib.suppress(ConnectionError):
                while piece := stream.recv(1 << 16):
                    answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        words = head.split(b" ")
        return (int(words[1]), body) if len(words) > 1 else (0, body)

    def metric(self, name):
        """The value of one metric, from those that are told to holders of a token."""
        lines = self.get("/metrics").decode().splitlines()
        return next(float(line.split(" ")[1]) for line in lines if line.startswith(f"ronchi_{name} "))

    def memory_bytes(self):
        """Resident memory of the process."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096


@contextlib.contextmanager
def receiver(folder, data_port):
    site = Receiver(folder, data_port)
    site.start()
    try:
        yield site
    finally:
        with site.process:
            harness.terminate(site.process, 60)
