"""Joint distributions whose decompositions are known, and random ones of many kinds."""

import torch


def table(*outcomes):
    """The uniform distribution over (x1, x2, y)."""
    sizes = [max(column) + 1 for column in zip(*outcomes)]
    out = torch.zeros(sizes, dtype=torch.double)
    for outcome in outcomes:
        out[outcome] += 1 / len(outcomes)
    return out


BITS = [(a, b) for a in range(2) for b in range(2)]
GATES = {
    'and': table(*[(a, b, a & b) for a, b in BITS]),
    'or': table(*[(a, b, a | b) for a, b in BITS]),
    'xor': table(*[(a, b, a ^ b) for a, b in BITS]),
    'unq': table(*[(a, b, a) for a, b in BITS]),
    'rdn': table((0, 0, 0), (1, 1, 1)),
    'copy': table(*[(a, b, 2 * a + b) for a, b in BITS]),
    'sum': table(*[(a, b, a + b) for a, b in BITS]),
    'rdn+xor': table(*[(2 * c + a, 2 * c + b, 2 * c + (a ^ b)) for a, b in BITS for c in range(2)]),
}


def normalized(tables):
    tables = tables.double()
    return tables / tables.sum(dim=(1, 2, 3), keepdim=True)


def random_tables(n1, n2, ny, num=2):
    """Tables of each kind by name: dense, skewed, sparse, with empty rows, (nearly)
    deterministic, of marginals over many orders of magnitude, of equal sources."""

    def uniform(*sizes):
        return torch.rand(*sizes, dtype=torch.double)

    dense = uniform(num, n1, n2, ny)
    target = torch.randint(ny, (num, n1, n2))
    exact = torch.nn.functional.one_hot(target, ny).double()
    mask = uniform(num, n1, n2, ny) < 0.2
    mask[:, 0, 0] = True
    holes = dense.clone()
    holes[:, 1], holes[:, :, 1] = 0, 0
    equal = torch.zeros(num, n1, n2, ny, dtype=torch.double)
    i = torch.arange(min(n1, n2))
    equal[:, i, i] = uniform(num, len(i), ny)
    wide = (-20 * uniform(num, n1, 1, ny) - 20 * uniform(num, 1, n2, ny)).exp()
    out = {
        'dense': dense,
        'skewed': dense**8,
        'scales': (-25 * dense).exp(),
        'wide marginals': wide * dense,
        'sparse': dense * mask,
        'empty rows': holes,
        'deterministic': exact,
        'nearly deterministic': exact + 1e-6 * dense,
        'barely stochastic': exact + 1e-14 * dense,
        'equal sources': equal,
        'independent given the target': uniform(num, n1, 1, ny) * uniform(num, 1, n2, ny),
        'first is enough': uniform(num, n1, 1, ny) ** 3 * uniform(num, n1, n2, 1),
    }
    return {name: normalized(tables) for name, tables in out.items()}


def nearly_deterministic(n1, n2, ny, error, num=10):
    """Targets that are a function of the sources but for an error of this order."""
    target = torch.randint(ny, (num, n1, n2))
    mass = torch.rand(num, n1, n2, 1, dtype=torch.double) + 0.1
    exact = torch.nn.functional.one_hot(target, ny).double() * mass
    return normalized(exact + error * torch.rand(num, n1, n2, ny, dtype=torch.double))


def with_errors(gate, error):
    """A gate whose answer is drawn anew with a small probability."""
    return (1 - error) * gate + error * gate.sum(dim=-1, keepdim=True) / gate.size(-1)
