"""How much memory a child process takes, told by itself."""

PEAK = """
def peak():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
"""
"""Code for a child: what it held at most so far, in bytes.

`resource.getrusage` does not tell: its ``ru_maxrss`` outlives exec, so a child of a test run that
is large already would seem to take nothing at all.
"""
