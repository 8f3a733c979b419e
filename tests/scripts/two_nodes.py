"""Two nodes on one machine: network namespaces with a cable between them, each with its own hostname and hosts file."""

import os
import shutil
import subprocess
from pathlib import Path


def missing() -> str | None:
    """Why there can be no two nodes here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "not installed: ip, unshare (make test-packages)"
    probe = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode != 0:
        return "this machine allows no network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class TwoNodes:
    """A context manager; `addresses` and `names` have one entry a node."""

    def __init__(self) -> None:
        number = os.getpid()  # several test workers may have nodes at once
        self.names = [f"node{number}a", f"node{number}b"]
        self._cables = [f"v{number}a", f"v{number}b"]
        subnet = f"10.{200 + number % 50}.{number // 50 % 250}"
        self.addresses = [f"{subnet}.1", f"{subnet}.2"]

    def __enter__(self) -> "TwoNodes":
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)

    def _make(self) -> None:
        hosts = "127.0.0.1 localhost\n" + "".join(
            f"{address} {name}\n" for address, name in zip(self.addresses, self.names, strict=True)
        )
        for name in self.names:
            folder = Path("/etc/netns", name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts)
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
        self._ip("link", "add", self._cables[0], "type", "veth", "peer", "name", self._cables[1])
        for name, cable, address in zip(self.names, self._cables, self.addresses, strict=True):
            self._ip("link", "set", cable, "netns", name)
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            self._ip("-n", name, "link", "set", cable, "up")

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def command(self, node: int, *command: str) -> list[str]:
        """`command` as it would run on that node; the process is the command itself, so signals reach it."""
        name = self.names[node]
        inside = 'hostname "$0" && exec "$@"'
        return ["ip", "netns", "exec", name, "unshare", "--uts", "bash", "-c", inside, name, *command]
