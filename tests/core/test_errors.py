import inspect

from soberano.core import errors


def classes() -> list[type]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


def test_one_root_and_the_tree_in_the_docstring_is_the_tree_of_the_code():
    stack: list[tuple[int, str]] = []
    shown: dict[str, str] = {}
    tree = (errors.__doc__ or "").partition("\n\nSoberanoError")
    for line in (tree[1] + tree[2]).splitlines():
        if not line.strip():
            continue
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        while stack and stack[-1][0] >= depth:
            stack.pop()
        shown[name] = stack[-1][1] if stack else "Exception"
        stack.append((depth, name))
    assert shown == {c.__name__: c.__bases__[0].__name__ for c in classes()}
    for line in (errors.__doc__ or "").splitlines():
        if "also a ValueError" in line:
            assert issubclass(getattr(errors, line.split()[0]), ValueError)
