"""The figures of the papers' tables, in the digits in which they were printed.

.. [1] Kobayashi, Solak, Batson, Royer, "Image Deconvolution via Noise-Tolerant Self-Supervised
   Inversion" (2020), Tables 1 and 2.
.. [2] Papkov, Palo, Parts, "Self-Supervised Single-Image Deconvolution with Siamese Neural
   Networks" (2023), Tables 1 to 4. Its SSIM has data range 1. "SSI" is there the authors'
   reproduction of [1].
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures by method and column, the number of images they are means over, and their source."""

    figures: dict
    images: int
    sources: str


def _figures(columns, text):
    """Lines of a method and its figures, "-" where there is none."""
    figures = {}
    for line in text.strip().split("\n"):
        method, *cells = line.split()
        found = zip(columns.split(), cells, strict=True)
        figures[method] = {column: cell for column, cell in found if cell != "-"}
    return figures


TABLE1 = Published(
    _figures("psnr ssim_range2 ssim_range1 mi smi rmse train infer", """
blurry                 23.1  0.77  -     0.17  0.38  -      -       -
input                  17.8  0.29  0.18  0.07  0.18  0.131  -       -
tv_conjugate_gradient  19.4  0.41  -     0.09  0.21  -      0.00    95.74
tv_chambolle_pock      18.7  0.40  -     0.07  0.23  -      0.00    306.60
richardson_lucy_2      22.0  -     0.47  0.13  0.25  0.086  -       -
richardson_lucy_5      22.2  0.59  0.44  0.12  0.25  0.082  0.00    0.23
richardson_lucy_10     21.1  0.52  -     0.10  0.25  -      0.00    0.10
richardson_lucy_20     18.5  0.38  -     0.08  0.19  -      0.00    0.17
ssi_no_masking         17.7  0.38  -     0.07  0.14  -      222.67  0.03
ssi                    22.5  0.61  0.46  0.14  0.27  -      249.01  0.03
"""),
    22,
    """\
Published: PSNR, SSIM with data range 2, MI, SMI and seconds by Kobayashi et al. (Tables 1 and 2;
networks and Richardson–Lucy on a GPU, the other two on a CPU); SSIM with data range 1, RMSE and all
of Richardson–Lucy 2 by Papkov et al. (Table 2; its SSI is a reproduction, with a PSNR of 22.0).""",
)  # fmt: skip

TABLE3 = Published(
    _figures("psnr ssim_range1 mi smi rmse train", """
input               17.77  0.18  0.07  0.18  0.130  -
richardson_lucy_2   22.0   0.47  0.13  0.25  0.086  -
richardson_lucy_5   22.2   0.44  0.12  0.25  0.082  -
noise2self          22.49  0.27  -     -     0.079  -
noise2self_bound    22.51  0.43  -     -     0.079  -
noise2same          21.49  0.23  -     -     0.089  -
noise2same_bound    21.81  0.41  -     -     0.085  -
noise2same_d        22.79  0.46  0.13  0.30  0.078  856
noise2same_d_bound  22.67  0.46  -     -     0.078  -
"""),
    22,
    """\
Published: Papkov et al., Table 1, and for MI, SMI, seconds (one image on a GPU) and Richardson–Lucy
Table 2, whose own row is here that of (4) without the bound: its scores are.""",
)  # fmt: skip

TABLE4 = Published(
    _figures("psnr ssim_range1 rmse train", """
input               21.21  0.64  0.087  -
richardson_lucy_2   22.4   0.32  0.076  -
ssi                 22.6   0.39  0.074  2814
noise2self          23.71  0.39  0.065  -
noise2self_bound    23.71  0.39  0.065  -
noise2same          24.08  0.39  0.063  8160
noise2same_bound    24.02  0.39  0.063  -
noise2same_d        21.05  0.82  0.089  -
noise2same_d_bound  21.05  0.82  0.089  -
"""),
    1,
    """\
Published: Papkov et al., Table 3, and for Richardson–Lucy, SSI and seconds (on a GPU) Table 4; on
another volume, of microtubules.""",
)  # fmt: skip
