"""A file system that refuses what it is told to: `fuse_disk.py BACKING MOUNTED`; everything else goes to BACKING.

Lines on standard input are orders, `OPERATION ERROR PART FIRST COUNT`: of these operations on paths that contain PART,
the FIRST one (counted from now on, from 1) and COUNT - 1 more are answered with the error; `-` stands for any path, `heal`
ends it. Lines on standard output tell what was refused. The kernel does the rest: its errors are those of a real disk.
"""

import errno
import os
import sys
import threading

import mfusepy


class Orders:
    """What is to be refused."""

    def __init__(self):
        self._lock = threading.Lock()
        self._order = None

    def listen(self):
        for line in sys.stdin:
            words = line.split()
            with self._lock:
                self._order = None
                if words != ["heal"]:
                    operation, error, part, first, count = words
                    part = "" if part == "-" else part
                    self._order = [operation, getattr(errno, error), part, int(first), int(count)]
                self._say("ready")

    def _say(self, line):
        """One line at a time, under the lock: lines of two threads must not run into each other."""
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def check(self, operation, path):
        """Raises the error, if it is the turn of this operation."""
        with self._lock:
            order = self._order
            if order is None or order[0] != operation or order[2] not in path:
                return
            order[3] -= 1
            is_due = -order[4] < order[3] <= 0
            if is_due:
                self._say(f"refused {operation} {path}")
        if is_due:
            raise OSError(order[1], os.strerror(order[1]))


class Disk(mfusepy.Operations):
    """Everything as in the backing directory, but for what is refused."""

    use_ns = True

    def __init__(self, backing, orders):
        self._backing, self._check = backing, orders.check

    def _at(self, path):
        return self._backing + path

    def getattr(self, path, fh=None):
        found = os.lstat(self._at(path)) if fh is None else os.fstat(fh)
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {name: getattr(found, name) for name in names} | times

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self._at(path))]

    def mkdir(self, path, mode):
        self._check("create", path)
        os.mkdir(self._at(path), mode)
        return 0

    def rmdir(self, path):
        os.rmdir(self._at(path))
        return 0

    def unlink(self, path):
        os.unlink(self._at(path))
        return 0

    def symlink(self, target, source):
        self._check("create", target)
        os.symlink(source, self._at(target))
        return 0

    def readlink(self, path):
        return os.readlink(self._at(path))

    def rename(self, old, new):
        self._check("rename", new)
        os.rename(self._at(old), self._at(new))
        return 0

    def chmod(self, path, mode):
        os.chmod(self._at(path), mode)
        return 0

    def utimens(self, path, times=None):
        return 0

    def create(self, path, mode, fi=None):
        self._check("create", path)
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path, flags):
        return os.open(self._at(path), flags & ~os.O_DIRECT)

    def read(self, path, size, offset, fh):
        self._check("read", path)
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self._check("write", path)
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self._at(path) if fh is None else fh, length)
        return 0

    def fallocate(self, path, mode, offset, size, fh):
        self._check("allocate", path)
        os.posix_fallocate(fh, offset, size)
        return 0

    def fsync(self, path, datasync, fh):
        self._check("sync", path)
        return 0  # What a power cut would take is tried elsewhere.

    def fsyncdir(self, path, datasync, fh):
        self._check("sync", path)
        return 0

    def release(self, path, fh):
        os.close(fh)
        return 0

    def statfs(self, path):
        found = os.statvfs(self._at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize", "f_namemax")
        return {name: getattr(found, name) for name in names}


def main():
    backing, mounted = (os.path.abspath(path) for path in sys.argv[1:3])
    orders = Orders()
    threading.Thread(target=orders.listen, daemon=True).start()
    mfusepy.FUSE(Disk(backing, orders), mounted, foreground=True, nothreads=True)


if __name__ == "__main__":
    main()
