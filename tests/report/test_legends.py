"""What is read in a figure can be read: legends beside their panels, numbers of three digits."""

import pytest

from topojax.report.facts import three

pytest.importorskip("plotly")


def figure(*curves):
    """A figure of a panel for each list of names of curves."""
    from topojax.report.style import line, panels

    made = panels([f"panel {i}" for i in range(len(curves))])
    for i, names in enumerate(curves):
        for name in names:
            line(made, (1 + i // 2, 1 + i % 2), [0, 1], [0, 1], name, "#000000")
    return made


def test_legends_of_panels_stand_above_their_own_panel_and_nowhere_else():
    from topojax.report.style import own_legends

    made = own_legends(figure("ab", "cd", "ef"))
    assert len({trace.legend for trace in made.data}) == 3
    places = []
    for trace in made.data[::2]:
        number = (trace.xaxis or "x")[1:]
        legend = made.layout[trace.legend]
        x, y = made.layout[f"xaxis{number}"].domain, made.layout[f"yaxis{number}"].domain
        assert (legend.x, legend.y, legend.xanchor, legend.yanchor) == (x[0], y[1], "left", "bottom")
        places.append((legend.x, legend.y))
    assert len(set(places)) == 3


def test_panels_with_the_same_curves_share_one_legend():
    from topojax.report.style import own_legends

    made = own_legends(figure("ab", "ab"))
    assert [trace.showlegend for trace in made.data] == [True, True, False, False]


@pytest.mark.parametrize(
    "value, said",
    [
        (None, "–"),
        (0.12345678901234567, "0.123"),
        (0.00012345, "0.000123"),
        (12.3456, "12.3"),
        (123456.7, "123457"),
        (359, "359"),
    ],
)
def test_numbers_of_the_tables_have_three_significant_digits(value, said):
    assert three(value) == said
