"""The real docker-registry, on a free port of the loopback, for as long as a ``with`` lasts.

with token_server(public={"library/files"}) as tokens, registry(tmp_path, tokens) as hub:
    image = hub.add("library/files", blobs)
    ... hub.url(f"/v2/library/files/manifests/{image.tag}") ... hub.blob_url("library/files", digest) ...
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.servers.program import free_port, need, running
from tests.servers.token_server import ISSUER, SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.servers.token_server import TokenServer

PROGRAM: Final = shutil.which("docker-registry", path="/usr/bin:/usr/local/bin")
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True)
class Image:
    """What the registry has in a repository under a tag: the bytes of the manifest, and the blobs by hex digest."""

    repository: str
    tag: str
    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """The SHA-256 of the manifest, in hexadecimal digits."""
        return hashlib.sha256(self.manifest).hexdigest()


class Registry:
    """A running docker-registry, and the directory where it keeps everything."""

    def __init__(self, port: int, storage: Path, output: Path) -> None:
        self.port = port
        self.storage = storage
        self._output = output

    def url(self, path: str = "/v2/") -> str:
        """Return the URL of *path*."""
        return f"http://127.0.0.1:{self.port}{path}"

    def manifest_url(self, image: Image) -> str:
        """Return the URL of the manifest of *image*, by its tag."""
        return self.url(f"/v2/{image.repository}/manifests/{image.tag}")

    def blob_url(self, repository: str, digest: str) -> str:
        """Return the URL of a blob, by the hexadecimal digits of its SHA-256."""
        return self.url(f"/v2/{repository}/blobs/sha256:{digest}")

    def log(self) -> list[dict[str, Any]]:
        """Return what the registry logged: a mapping each, ``http.request.uri`` and the like in some."""
        lines = self._output.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def denied(self) -> int:
        """Return how many requests the registry refused with 401, for want of a token or of one that is good."""
        return sum(str(each.get("msg", "")).startswith("error authorizing context") for each in self.log())

    def redirected(self) -> int:
        """Return how many requests the registry answered with a redirect."""
        return sum(each.get("http.response.status") == 307 for each in self.log())

    def add(self, repository: str, blobs: Sequence[bytes], tag: str = "latest") -> Image:
        """Put an image of *blobs* under *tag*, as the registry stores it (its paths: registry/storage/paths.go)."""
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        known = {self._store(repository, blob): blob for blob in (config, *blobs)}
        described = [
            {"mediaType": _LAYER if blob is not config else _CONFIG, "digest": f"sha256:{digest}", "size": len(blob)}
            for digest, blob in known.items()
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
        ).encode()
        digest = self._store(repository, manifest, "_manifests/revisions")
        self._link(repository, f"_manifests/tags/{tag}/current", digest)
        self._link(repository, f"_manifests/tags/{tag}/index/sha256/{digest}", digest)
        return Image(repository, tag, manifest, known)

    def _store(self, repository: str, content: bytes, place: str = "_layers") -> str:
        digest = hashlib.sha256(content).hexdigest()
        directory = self.storage / "docker/registry/v2/blobs/sha256" / digest[:2] / digest
        if not directory.exists():
            directory.mkdir(parents=True)
            (directory / "data").write_bytes(content)
        self._link(repository, f"{place}/sha256/{digest}", digest)
        return digest

    def _link(self, repository: str, place: str, digest: str) -> None:
        directory = self.storage / "docker/registry/v2/repositories" / repository / place
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "link").write_text(f"sha256:{digest}")


@contextmanager
def registry(
    storage: Path, access: TokenServer | str, *, redirect: str | None = None, port: int | None = None
) -> Iterator[Registry]:
    """Run a registry that keeps everything in the directory *storage*.

    *access* decides who is let in: whoever has a token of that server; or, with the lines of a file for htpasswd, the
    users in it, whose passwords are hashed with bcrypt. With *redirect*, a URL, it answers for blobs with a redirect to
    their path in *storage* below that. Its *port* is a free one.
    """
    need(None if PROGRAM else "docker-registry is not installed (apt-get install docker-registry)")
    assert PROGRAM
    with tempfile.TemporaryDirectory(prefix="registry-") as directory:
        work = Path(directory)
        port = port or free_port()
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(storage)}},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "of-uploads"},
            "auth": _auth(work, access),
        }
        if redirect is not None:
            config["middleware"] = {"storage": [{"name": "redirect", "options": {"baseurl": redirect}}]}
        (work / "config.yml").write_text(json.dumps(config))  # JSON is YAML, too
        output = work / "output"
        command = [PROGRAM, "serve", str(work / "config.yml")]
        settings = {"OTEL_TRACES_EXPORTER": "none"}  # no REGISTRY_…, which would be settings
        with running("docker-registry", command, port, output, env=settings):
            yield Registry(port, storage, output)


def _auth(work: Path, access: TokenServer | str) -> dict[str, Any]:
    if isinstance(access, str):
        (work / "htpasswd").write_text(access)
        return {"htpasswd": {"realm": "registry", "path": str(work / "htpasswd")}}
    (work / "authority.pem").write_bytes(access.authority)
    trusted = str(work / "authority.pem")
    return {"token": {"realm": access.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": trusted}}
