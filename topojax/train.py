"""Train an atlas: `python -m topojax.train …`, which is `topojax train …` (`topojax.commands.train`)."""

from topojax.commands import entry

if __name__ == "__main__":
    entry("train")
