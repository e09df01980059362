"""Tables 1 and 2 of Kobayashi et al., and Table 2 of Papkov et al."""

from . import images, methods, tabulate

TABLE = tabulate.Table(
    "table1",
    "Degrade the benchmark's images, restore them by every method, score, compare with the papers.",
    images,
    methods.NAMES,
)


def main(arguments):
    return tabulate.main(arguments, TABLE)
