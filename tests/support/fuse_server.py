# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system in user space that shows another folder: a storage that a test can make stand still."""

import errno
import os
import subprocess
import sys
import tempfile
import time

from .paths import REPO
from .standstill import freeze, thaw

PATIENCE = 30


class Mounted:
    """The folder `back` is seen at `front`, by a process that can be frozen."""

    def __init__(self, back, front):
        self.back, self.front = back, front

    def __enter__(self):
        back, front = str(self.back), str(self.front)
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuse_server", back, front],
            cwd=REPO, stdin=subprocess.DEVNULL, stderr=self.errors,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not os.path.ismount(front):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.errors.seek(0)
                raise RuntimeError(f"no file system in user space: {self.errors.read().decode()}")
            time.sleep(0.01)
        return self

    def freeze(self):
        freeze(self.process)

    def thaw(self):
        thaw(self.process)

    def __exit__(self, *_):
        self.thaw()
        subprocess.run(["umount", "--lazy", self.front], check=True)
        # It does not end by itself while somebody has a copy of the mount: who was started by ip netns exec meanwhile.
        self.process.kill()
        self.process.wait(PATIENCE)
        self.errors.close()


def serve(back, front):
    import fusepy

    def refuse(code):
        raise fusepy.FuseOSError(code)

    class Mirror(fusepy.Operations):
        def __call__(self, operation, path, *arguments):
            try:
                return getattr(self, operation)(back + path if path else path, *arguments)
            except OSError as error:
                refuse(error.errno)

        def getattr(self, path, handle=None):
            found = os.lstat(path)
            keys = ("st_atime", "st_ctime", "st_gid", "st_mode", "st_mtime", "st_nlink", "st_size", "st_uid")
            return {key: getattr(found, key) for key in keys}

        def readdir(self, path, handle):
            return [".", "..", *os.listdir(path)]

        def open(self, path, flags):
            return os.open(path, flags & ~os.O_DIRECT)

        def read(self, path, size, offset, handle):
            return os.pread(handle, size, offset)

        def write(self, path, data, offset, handle):
            return os.pwrite(handle, data, offset)

        def truncate(self, path, length, handle=None):
            os.truncate(path, length)

        def fsync(self, path, only_data, handle):
            os.fsync(handle)

        def release(self, path, handle):
            os.close(handle)

        def getxattr(self, path, name, position=0):
            return os.getxattr(path, name)

        def setxattr(self, path, name, value, options, position=0):
            os.setxattr(path, name, value, options)

        # A server that has a FLUSH is asked for it when a process ends, and the kernel waits.
        def flush(self, path, handle):
            refuse(errno.ENOSYS)

    fusepy.FUSE(Mirror(), front, foreground=True, nothreads=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
