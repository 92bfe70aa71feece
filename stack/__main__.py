"""`python -m stack`, with whatever Python comes first on the PATH.

The packages that the manager needs are in .venv beside it (`make up` puts them there), so that
nothing has to be activated: a Python of the same version uses them, any other hands over to the
one in .venv.
"""

import os
import sys
from pathlib import Path

VENV = Path(__file__).parent.parent / ".venv"


def main() -> None:
    python = VENV / "bin" / "python"
    packages = VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if packages.is_dir():
        sys.path.insert(0, str(packages))
    elif python.exists():
        os.execv(python, [str(python), "-m", "stack", *sys.argv[1:]])
    try:
        from stack.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "stack":
            raise
        print(f"stack: the package {error.name} is not installed. Run: make up", file=sys.stderr)
        sys.exit(69)
    run()


if sys.version_info < (3, 11):  # noqa: UP036 - said here, before a SyntaxError says it badly
    sys.exit("stack: Python 3.11 or later is needed, this is " + sys.version.split()[0])
if __name__ == "__main__":
    main()
