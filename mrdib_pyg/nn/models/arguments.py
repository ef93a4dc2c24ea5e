import inspect


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    r"""Returns the arguments of a model's constructor by name, but for :obj:`self` and
    :obj:`data`. Where it takes ``**kwargs``, those of the constructor that they are handed on to,
    the next one in the order of its base classes, come with them.
    """
    out: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)['__init__']).parameters.values())[2:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in parameters:
            if parameter.kind not in variadic:
                out.setdefault(parameter.name, parameter)
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return out
