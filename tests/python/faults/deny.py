"""Runs a program that is refused system calls: `deny.py CALL=ERRNO... -- COMMAND...`, e.g. `io_uring=EPERM`.

A seccomp filter (seccomp(2)) answers them with the error; everything else is allowed, and children inherit it.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# Numbers of x86-64 and arm64 where they agree (all calls since 5.1 do); fallocate differs.
CALLS = {"io_uring": [425, 426, 427], "fallocate": [{"x86_64": 285, "aarch64": 47}.get(platform.machine(), -1)]}

LOAD_NUMBER = (0x20, 0, 0, 0)  # BPF_LD | BPF_W | BPF_ABS: struct seccomp_data begins with the number of the call.
ALLOW = (0x06, 0, 0, 0x7FFF0000)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


def program(refusals):
    """The filter for `{number: errno}`: per call one comparison and one answer."""
    steps = [LOAD_NUMBER]
    for number, error in refusals.items():
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    return b"".join(struct.pack("<HBBI", *step) for step in [*steps, ALLOW])


def install(refusals):
    code = program(refusals)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]

    about = Filter(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, ctypes.byref(about), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def main():
    split = sys.argv.index("--")
    refusals = {}
    for argument in sys.argv[1:split]:
        name, error = argument.split("=")
        refusals |= {number: getattr(errno, error) for number in CALLS[name]}
    install(refusals)
    os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])


if __name__ == "__main__":
    main()
