"""Populations in a line of text, and which fields are numbers of a program."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topojax.config.defaults import default_config
from topojax.config.numbers import described, names_of, pack, placed, why_not
from topojax.config.sweep import changed, differing, is_population, members, parse, text_of
from topojax.errors import UserError


def config(sweep="", size=0, **fields):
    c = default_config()
    c.population.sweep, c.population.size = sweep, size
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def test_lists_ranges_and_logarithmic_ranges():
    found = parse(" seed = 0..3 ;optim.learning_rate=1e-3,4e-3; governor.grow=1.0..1.21:3;")
    assert found == {"seed": (0, 1, 2, 3), "optim.learning_rate": (1e-3, 4e-3), "governor.grow": (1.0, 1.1, 1.21)}
    assert parse("config.seed=5") == {"seed": (5,)}
    assert parse("") == {}


@given(st.dictionaries(st.sampled_from(["seed", "a.b", "c"]), st.lists(st.integers(-9, 9), min_size=1), min_size=1))
def test_what_is_written_is_read(values):
    assert parse(text_of(values)) == {name: tuple(each) for name, each in values.items()}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("seed", "must read FIELD="),
        ("seed=", "must read FIELD="),
        ("seed=1;seed=2", "twice"),
        ("seed=a", "not a finite number"),
        ("seed=1e400", "not a finite number"),
        ("seed=3..1", "count up"),
        ("seed=0..1.5", "count up"),
        ("seed=0..99999999", "more than"),
        ("seed=0..9999;optim.learning_rate=1e-3..2e-3:100", "at most"),
        ("optim.learning_rate=0..1:3", "0 < FIRST"),
        ("sead=1", "no field sead.*mean seed"),
        ("optim.leaning_rate=1e-3", "mean optim.learning_rate"),
        ("train.epochs=1,2", "train in step"),
        ("model.hidden_dim=8,16", "config.model.hidden_dim selects code"),
        ("optim.rate=1,2", "is not a number"),
        ("data.num_examples=100,200", "no number of the program"),
        ("log.every_epochs=1,2", "no number of the program"),
        ("augment.noise_std=0.1,0.2", "set it to a positive number"),
        ("optim.update_ratio=0,0.1", "a 0 takes code out"),
        ("contracts.vicreg_inv.kp=0.1,0.2", "contract takes no part"),
        ("contracts.window.kp=0.1,0.2", "mechanism 'dual', which does not read it"),
        ("governor.stable_patience=1.5", "of type int"),
        ("optim.b1=0.9,1.5", r"optim.b1=1.5.*must lie in \\[0, 1\\)"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_one_line(sweep, said):
    with pytest.raises(UserError, match=said.replace("\\\\", "\\")):
        members(config(sweep))


def test_members_are_all_combinations_and_ordinary_runs():
    made = members(config("seed=0..1;optim.learning_rate=1e-3,2e-3"))
    assert [(m.seed, m.optim.learning_rate) for m in made] == [(0, 1e-3), (0, 2e-3), (1, 1e-3), (1, 2e-3)]
    assert not any(map(is_population, made))
    assert [m.seed for m in members(config(size=3, seed=7))] == [7, 8, 9]
    with pytest.raises(UserError, match=r"size = 3, but .* makes 2"):
        members(config("seed=0,1", size=3))
    assert differing(config("seed=4,5")) == {"seed": (4, 5)}


def test_numbers_are_in_no_key_and_everything_else_is():
    usual = described(config())
    assert described(config(seed=3, optim__learning_rate=1e-3, contracts__window__target=0.3, name="x")) == usual
    assert described(config(train__epochs=7, log__every_epochs=1)) == usual
    for field in ("model__hidden_dim", "train__batch_size", "losses__orthogonality_every", "probe__every_steps"):
        assert described(config(**{field: 3})) != usual
    assert described(config(optim__update_ratio=0.0)) != usual
    assert described(config(contracts__window__mechanism="pid")) != usual
    assert described(config(optim__rate="prodigy")) != usual


def test_numbers_come_back_where_they_were():
    c = config(seed=2**31 - 1)
    numbers = pack(c)
    back = placed(c, numbers)
    assert int(back.seed) == 2**31 - 1
    assert [float(x) for x in numbers.floats] == [
        float(back_value)
        for back_value in (dict_of(back)[n] for n in names_of(c) if not isinstance(dict_of(c)[n], int))
    ]
    assert back.optim.rate == c.optim.rate


def dict_of(c):
    from topojax.config.io import flat

    return dict(flat(c))


def test_each_field_is_swept_or_says_why_not():
    c = config()
    arguments = set(names_of(c))
    for name in dict_of(c):
        assert (why_not(c, name) is None) == (name in arguments - {"train.epochs", "optim.warmup_epochs"})


def test_a_change_of_a_wrong_type_is_refused():
    with pytest.raises(UserError, match="of type int"):
        changed(config(), {"seed": 0.5})
