"""Table 1 of Papkov et al.: losses with one pass and with two, in 2-D."""

from . import images, methods, published, tabulate

TABLE = tabulate.Table(
    "table3",
    "Losses with one pass and with two",
    "Degrade the benchmark's images, restore them by networks trained with the losses of Papkov et "
    "al., compare with their Table 1.",
    images,
    methods.TABLE3,
    published.TABLE3,
    images.HOW,
)


def main(arguments):
    return tabulate.main(arguments, TABLE)
