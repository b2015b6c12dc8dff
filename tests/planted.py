"""Plant a mistake in a module: what it is then must not pass."""

import inspect
import types


def planted(module, right, wrong):
    """Return the module as it would be with `wrong` in the place of `right`."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} is not once in {module.__name__}"
    made = types.ModuleType(module.__name__)
    made.__file__ = module.__file__
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), made.__dict__)
    return made
