"""Train an atlas: `python -m topojax.train …`, which is `topojax train …` (`topojax.commands.train`)."""

from topojax.__main__ import entry

if __name__ == "__main__":
    entry("train")
