"""Tables 1 and 2 of Kobayashi et al., and Table 2 of Papkov et al."""

from . import images, methods, published, tabulate

TABLE = tabulate.Table(
    "table1",
    "Deconvolution of the benchmark images",
    "Degrade the benchmark's images, restore them by every method, score, compare with the papers.",
    images,
    methods.TABLE1,
    published.TABLE1,
    images.HOW,
)


def main(arguments):
    return tabulate.main(arguments, TABLE)
