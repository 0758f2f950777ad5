"""What the VM boots: Debian's kernel and a small root file system, made from Debian's packages and kept in `.cache/vm`.

    Debian packages ──▶ vmlinux, base.cpio     made once, in seconds; keyed by this file
    our own files   ──▶ a second, small cpio   the kernel unpacks it over the first; keyed by its content

Nothing is installed: packages are downloaded, and what is needed is taken out of them. A change of the guest agent
or of `guest/` makes only the second archive again.
"""

import contextlib
import fcntl
import fnmatch
import hashlib
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from reconciler.lab.namespaces import LabError, LabUnavailableError

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "vm"

# Debian names its newest kernel and its one Python by what these depend on.
KERNEL_OF = "linux-image-amd64"
PYTHON_OF = "python3-minimal"

# In this order, for the packages carry no modules.dep. (The cloud kernel would lack i6300esb.)
MODULES = (
    "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_pci",
    "failover", "net_failover", "virtio_net", "virtio_console",
    "llc", "stp", "bridge",
    "watchdog", "i6300esb", "pvpanic", "pvpanic-mmio",
)  # fmt: skip

_LIBRARY = "*x86_64-linux-gnu/"
# Package: which of its files. The last five are for qemu-ga, which answers `guest-ping`.
_PACKAGES = {
    "busybox-static": ("bin/busybox",),
    "libc6": ("lib64/*", *(f"{_LIBRARY}{name}.so.?" for name in ("ld-linux-x86-64", "libc", "libm"))),
    "libexpat1": (f"{_LIBRARY}*.so.*",),
    "zlib1g": (f"{_LIBRARY}*.so.*",),
    "qemu-guest-agent": ("usr/sbin/qemu-ga",),
    "libglib2.0-0": (f"{_LIBRARY}libglib-*.so.*", f"{_LIBRARY}libgmodule-*.so.*"),
    "libnuma1": (f"{_LIBRARY}*.so.*",),
    "libpcre2-8-0": (f"{_LIBRARY}*.so.*",),
    "libudev1": (f"{_LIBRARY}*.so.*",),
    "liburing2": (f"{_LIBRARY}*.so.*",),
}

# Of the standard library, all but what is large and of no use in a guest without packages, screen or XML.
_NOT_IN_PYTHON = (
    "test/*", "pydoc_data/*", "unittest/*", "xml/*", "xmlrpc/*", "distutils/*", "venv/*", "sqlite3/*", "curses/*",
    "dbm/*", "wsgiref/*", "ctypes/*", "multiprocessing/*", "turtle.py", "_sysconfigdata*",
)  # fmt: skip
_ENCODINGS = ("__init__", "aliases", "ascii", "cp437", "idna", "latin_1", "utf_8")
_EXTENSIONS = ("_asyncio", "_contextvars", "_json", "_queue", "mmap", "resource", "termios")

_DIRECTORIES = ("proc", "run", "sys", "tmp")


class Entry(NamedTuple):
    """A file, folder, link or device of a file system, as cpio knows it: type and permissions, content, device number."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


Tree = dict[str, Entry]


class Image(NamedTuple):
    """What QEMU boots."""

    kernel: Path
    initrd: Path
    digest: str


def program(data: bytes) -> Entry:
    return Entry(stat.S_IFREG | 0o755, data)


def text(content: str) -> Entry:
    return Entry(stat.S_IFREG | 0o644, content.encode())


def folder() -> Entry:
    return Entry(stat.S_IFDIR | 0o755)


def link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


# Reading Debian's packages


def _words(*argv: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, check=True, capture_output=True, text=True, timeout=600
        )
    except FileNotFoundError as error:
        raise LabUnavailableError(f"the VM's image is made of Debian's packages, and there is no {argv[0]}") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(argv)}: {error.stderr.strip()}") from error
    return done.stdout


def _only_dependency(package: str, prefix: str) -> str:
    lines = _words("apt-cache", "depends", "--important", package).splitlines()
    found = sorted({line.split()[1] for line in lines if f"Depends: {prefix}" in line})
    if len(found) != 1:
        raise LabUnavailableError(f"{package} should depend on one {prefix}…, but the package lists say {found}")
    return found[0]


def _download(packages: Iterable[str], into: Path) -> None:
    try:
        _words("apt-get", "download", *packages, cwd=into)
    except LabError:
        # The lists are too old, and name versions that the mirror has no more.
        _words("apt-get", "update")
        _words("apt-get", "download", *packages, cwd=into)


def _contents(package: Path, wanted: Callable[[str], bool]) -> Tree:
    """The wanted files of a package, without unpacking the rest of it to disk."""
    tree: Tree = {}
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacker,
        tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = member.name.removeprefix("./")
            if wanted(name) and member.issym():
                tree[name] = link(member.linkname)
            elif wanted(name) and (content := archive.extractfile(member)) is not None:
                tree[name] = Entry(stat.S_IFREG | member.mode & 0o7777, content.read())
    if unpacker.returncode != 0 or not tree:
        raise LabError(f"nothing of what is needed is in {package.name}")
    return tree


def _any_of(patterns: Collection[str]) -> Callable[[str], bool]:
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# The kernel


def _vmlinux(bzimage: bytes) -> bytes:
    """The ELF file inside a bzImage; it boots by PVH three times as fast (Documentation/arch/x86/boot.rst)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        raise LabUnavailableError(f"the kernel is compressed in an unknown way: it begins {payload[:6].hex()}")
    # After the stream stands its unpacked size, which is not part of it.
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)


def _modules(tree: Tree) -> Tree:
    # Numbered, so that the guest loads them in this order.
    by_name = {name.rpartition("/")[2]: entry for name, entry in tree.items()}
    return {f"lib/modules/{number:02}-{name}.ko": by_name[f"{name}.ko"] for number, name in enumerate(MODULES)}


# The root file system


def _python(tree: Tree, libraries: Tree, work: Path) -> Tree:
    """Python with its standard library compiled by itself; sources stay out, for a guest would compile them again."""
    prefix = next(name for name in tree if name.endswith("/os.py")).removesuffix("os.py")
    excluded = _any_of([f"{prefix}{pattern}" for pattern in _NOT_IN_PYTHON])
    kept: Tree = {}
    for name, entry in (tree | libraries).items():
        module = name.rpartition("/")[2].partition(".")[0]
        if excluded(name):
            continue
        if name.startswith(f"{prefix}encodings/") and module not in _ENCODINGS:
            continue
        if name.startswith(f"{prefix}lib-dynload/") and module not in _EXTENSIONS:
            continue
        kept[name] = entry
    _unpack(kept, work)
    loader = next(work.glob("lib/x86_64-linux-gnu/ld-linux-*"))
    path = ":".join(str(work / each) for each in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    interpreter = next(work.glob("usr/bin/python3.*"))
    # With nothing of this machine: neither its libraries nor its Python.
    program_ = [str(loader), "--library-path", path, str(interpreter), "-S", "-m", "compileall"]
    where = work / prefix
    subprocess.run(
        [*program_, "-q", "-b", "--invalidation-mode", "unchecked-hash", "-s", str(work), str(where)],
        env={"PYTHONHOME": str(work / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"},
        check=True,
        timeout=300,
    )
    compiled = {str(file.relative_to(work)): file for file in where.rglob("*.pyc")}
    kept = {name: entry for name, entry in kept.items() if not name.endswith(".py")}
    kept |= {name: Entry(stat.S_IFREG | 0o644, file.read_bytes()) for name, file in compiled.items()}
    return kept | {"usr/bin/python3": link(interpreter.name)}


def _unpack(tree: Tree, work: Path) -> None:
    for name, entry in tree.items():
        place = work / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(entry.mode):
            place.symlink_to(entry.data.decode())
        else:
            place.write_bytes(entry.data)
            place.chmod(stat.S_IMODE(entry.mode))


def _busybox(binary: bytes, work: Path) -> Tree:
    place = work / "busybox"
    place.write_bytes(binary)
    place.chmod(0o755)
    applets = _words(str(place), "--list").split()
    return {f"bin/{applet}": link("busybox") for applet in applets if applet != "busybox"}


def _base(work: Path) -> tuple[bytes, Tree]:
    """The kernel and the root file system."""
    kernel, python = _only_dependency(KERNEL_OF, "linux-image-"), _only_dependency(PYTHON_OF, "python3.")
    packages = work / "packages"
    packages.mkdir()
    pythons = {python: ("usr/bin/python3.*",)} | dict.fromkeys(
        (f"lib{python}", f"lib{python.removesuffix('-minimal')}-stdlib"), ("usr/lib/python3.*",)
    )
    wanted = _PACKAGES | pythons | {kernel: ("boot/vmlinuz-*", *(f"*/{name}.ko" for name in MODULES))}
    _download(wanted, packages)
    contents = {
        package: _contents(next(packages.glob(f"{package}_*.deb")), _any_of(files)) for package, files in wanted.items()
    }
    tree: Tree = {}
    for package in _PACKAGES:
        tree |= contents[package]
    tree |= _python({name: entry for package in pythons for name, entry in contents[package].items()}, tree, work)
    tree |= _busybox(tree["bin/busybox"].data, work)
    tree |= _modules(contents[kernel])
    tree |= dict.fromkeys(_DIRECTORIES, folder())
    # The kernel wants it before there is a devtmpfs.
    tree["dev/console"] = Entry(stat.S_IFCHR | 0o600, device=(5, 1))
    bzimage = next(entry.data for name, entry in contents[kernel].items() if name.startswith("boot/"))
    return _vmlinux(bzimage), tree


# cpio, as the kernel unpacks it: Documentation/driver-api/early-userspace/buffer-format.rst


def cpio(tree: Mapping[str, Entry]) -> bytes:
    """An archive in the format "newc", of equal bytes for equal trees; folders on the way are added."""
    complete = dict(tree)
    for name in tree:
        for parent in list(Path(name).parents)[:-1]:
            complete.setdefault(str(parent), folder())
    members = [
        _member(number, name, complete[name]) for number, name in enumerate(sorted(complete), start=1)
    ]  # a folder sorts before what is in it
    return b"".join(members) + _member(0, "TRAILER!!!", Entry(0))


def _member(number: int, name: str, entry: Entry) -> bytes:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# The cache


@contextlib.contextmanager
def made_once(name: str) -> Iterator[tuple[Path, Path | None]]:
    """A folder of the cache, and the folder to fill if it is not there yet; it appears whole or not at all."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # One builds, and whoever else runs the tests meanwhile waits for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Of whoever was interrupted.
        for stale in CACHE.glob("unfinished-*"):
            shutil.rmtree(stale)
        final = CACHE / name
        if final.exists():
            os.utime(final)
            yield final, None
            return
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=CACHE) as unfinished:
            filling = Path(unfinished, "it")
            filling.mkdir()
            yield final, filling
            filling.rename(final)


def forget_old(prefix: str, keep: int) -> None:
    """Remove all but the most recently used folders of a kind."""
    kind = sorted(CACHE.glob(f"{prefix}-*"), key=lambda place: place.stat().st_mtime, reverse=True)
    for place in kind[keep:]:
        shutil.rmtree(place, ignore_errors=True)


def digest_of(*parts: bytes | str) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:16]


def base() -> Path:
    """The folder with `vmlinux` and `base.cpio`."""
    with made_once(f"base-{digest_of(Path(__file__).read_bytes())}") as (final, filling):
        if filling is not None:
            with tempfile.TemporaryDirectory(prefix="unfinished-", dir=CACHE) as work:
                kernel, tree = _base(Path(work))
            (filling / "vmlinux").write_bytes(kernel)
            (filling / "base.cpio").write_bytes(cpio(tree))
    forget_old("base", 2)
    return final


def image(ours: Mapping[str, Entry]) -> Image:
    """The kernel, and the root file system with our own files over it."""
    where, overlay = base(), cpio(ours)
    digest = digest_of(where.name, overlay)
    with made_once(f"initrd-{digest}") as (final, filling):
        if filling is not None:
            (filling / "initrd").write_bytes((where / "base.cpio").read_bytes() + overlay)
    forget_old("initrd", 16)
    return Image(where / "vmlinux", final / "initrd", digest)
