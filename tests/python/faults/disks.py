"""Small disks for faults: file systems in sparse images on loop devices, always unmounted and detached. Needs root."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time

IMAGE_BYTES = 1 << 30  # Sparse. XFS refuses less than 300 MiB; a segment of an open-ended run has 200 MiB.
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}
# _IOR('X', 125, u32) of both file systems; flag 2: what the journal holds in memory is lost as well.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
UNMOUNT_TRIES = 100


def why_not(kind, *programs):
    """Why a disk of this kind cannot be made here, or `None`."""
    if os.geteuid() != 0:
        return "only root may mount file systems"
    for program in [MKFS[kind][0], "mount", "losetup", *programs]:
        if shutil.which(program) is None:
            return f"{program} is missing (./setup.sh installs it)"
    if not any(line.split()[-1] == kind for line in pathlib.Path("/proc/filesystems").read_text().splitlines()):
        return f"this kernel has no {kind}"
    return None


class Disk:
    """A file system on a loop device."""

    def __init__(self, kind, base, options="defaults"):
        self.kind, self.options = kind, options
        self.base = pathlib.Path(tempfile.mkdtemp(prefix=f"disk-{kind}-", dir=base))
        self.path = self.base / "mounted"
        self.path.mkdir()
        self._image = self.base / "image"
        self._device = None
        self._is_cut = False

    def make(self):
        with open(self._image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _run(*MKFS[self.kind], self._image)
        self._device = _run("losetup", "--find", "--show", self._image)
        self.mount()

    def mount(self):
        """Mounts it; the journal is replayed."""
        _run("mount", "-t", self.kind, "-o", self.options, self._device, self.path)
        self._is_cut = False

    def recover(self):
        """Mounted and well, wherever the last try gave up."""
        if self._is_cut:
            if self._is_mounted:
                self.unmount()
            self.mount()

    @property
    def _is_mounted(self):
        return os.path.ismount(self.path)

    def unmount(self):
        """Unmounts it, waiting for the last descriptors of processes that were killed."""
        for _ in range(UNMOUNT_TRIES):
            if subprocess.run(["umount", self.path], capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        _run("umount", self.path)

    def cut_power(self):
        """From here on nothing reaches the device any more, neither data nor journal."""
        self._check_mounted()
        self._is_cut = True
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)

    def _check_mounted(self):
        assert self._is_mounted, f"{self.path} is not mounted: this would hit the file system that it lies on"

    def freeze(self):
        self._check_mounted()
        _run("fsfreeze", "--freeze", self.path)

    def thaw(self):
        _run("fsfreeze", "--unfreeze", self.path)

    def remove(self):
        """Whatever state it is in: thawed, unmounted, detached, deleted."""
        if self._is_mounted:
            subprocess.run(["fsfreeze", "--unfreeze", self.path], capture_output=True)  # Fails where it is not frozen.
            subprocess.run(["umount", "--lazy", self.path], capture_output=True)
        if self._device:
            subprocess.run(["losetup", "--detach", self._device], capture_output=True)
        shutil.rmtree(self.base)


@contextlib.contextmanager
def disk(kind, base, options="defaults"):
    """A mounted disk, gone afterwards."""
    made = Disk(kind, base, options)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _run(*command):
    """Runs it; its output, or a failure with what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr.strip()}"
    return done.stdout.strip()
