"""Tables 3 and 4 of Papkov et al.: losses with one pass and with two, in 3-D."""

from . import filaments, methods, published, tabulate

TABLE = tabulate.Table(
    "table4",
    "Losses with one pass and with two, in 3-D",
    "Degrade a volume of random filaments, restore it by networks trained with the losses of "
    "Papkov et al., compare with their Tables 3 and 4.",
    filaments,
    methods.TABLE4,
    published.TABLE4,
    filaments.HOW,
)


def main(arguments):
    return tabulate.main(arguments, TABLE)
