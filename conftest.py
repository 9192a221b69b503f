"""What pytest must not import: modules whose array library is not on this machine."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("cupy") else ["soberano/*cupy*.py", "soberano/**/*cupy*.py"]
