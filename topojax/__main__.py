"""`python -m topojax COMMAND …`, which is `topojax COMMAND …`."""

from topojax.commands import entry

if __name__ == "__main__":
    entry()
