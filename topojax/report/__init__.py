"""One page about a run, that opens offline: curves, contracts, the atlas, its charts and codes, what it reconstructs.

  topojax report --workdir=runs/digits [--step=50] [--compare runs/a runs/b …]

writes <workdir>/report/index.html, or comparison/index.html, and a PNG of every figure. `sections.TABLE` is the page; a
figure is one function.
"""
