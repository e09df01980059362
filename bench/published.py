"""The figures of the papers' tables, in the digits in which they were printed.

.. [1] Kobayashi, Solak, Batson, Royer, "Image Deconvolution via Noise-Tolerant Self-Supervised
   Inversion" (2020), Tables 1 and 2.
.. [2] Papkov, Palo, Parts, "Self-Supervised Single-Image Deconvolution with Siamese Neural
   Networks", Table 2: it has SSIM with data range 1,
   RMSE and Richardson–Lucy 2. "SSI" is there the authors' reproduction of [1].
"""

IMAGES = 22

SOURCES = """\
Published: PSNR, SSIM with data range 2, MI, SMI and seconds by Kobayashi et al. (Tables 1 and 2;
networks and Richardson–Lucy on a GPU, the other two on a CPU); SSIM with data range 1, RMSE and all
of Richardson–Lucy 2 by Papkov et al. (Table 2; its SSI is a reproduction, with a PSNR of 22.0)."""

_KOBAYASHI = """
blurry                 23.1  0.77  0.17  0.38  -     -
input                  17.8  0.29  0.07  0.18  -     -
tv_conjugate_gradient  19.4  0.41  0.09  0.21  0.00  95.74
tv_chambolle_pock      18.7  0.40  0.07  0.23  0.00  306.60
richardson_lucy_5      22.2  0.59  0.12  0.25  0.00  0.23
richardson_lucy_10     21.1  0.52  0.10  0.25  0.00  0.10
richardson_lucy_20     18.5  0.38  0.08  0.19  0.00  0.17
ssi_no_masking         17.7  0.38  0.07  0.14  222.67  0.03
ssi                    22.5  0.61  0.14  0.27  249.01  0.03
"""

_PAPKOV = {
    "input": {"ssim_range1": "0.18", "rmse": "0.131"},
    "richardson_lucy_2": {
        "psnr": "22.0", "ssim_range1": "0.47", "mi": "0.13", "smi": "0.25", "rmse": "0.086",
    },
    "richardson_lucy_5": {"ssim_range1": "0.44", "rmse": "0.082"},
    "ssi": {"ssim_range1": "0.46"},
}  # fmt: skip

FIGURES = {}
for _line in _KOBAYASHI.split("\n")[1:-1]:
    _method, *_cells = _line.split()
    _columns = ("psnr", "ssim_range2", "mi", "smi", "train", "infer")
    _found = zip(_columns, _cells, strict=True)
    FIGURES[_method] = {column: cell for column, cell in _found if cell != "-"}
for _method, _cells in _PAPKOV.items():
    FIGURES[_method] = FIGURES.get(_method, {}) | _cells
