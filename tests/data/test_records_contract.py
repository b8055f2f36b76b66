import pytest

from sarwmix_jax.data.records import Contract, read_contract
from sarwmix_jax.errors import UserError

from .conftest import toy_contract


def test_a_contract_survives_its_file(tmp_path):
    contract = toy_contract(records={"train": 5})
    (tmp_path / "contract.json").write_text(contract.to_json())
    assert read_contract(tmp_path) == contract
    assert contract.shape == (2, 4, 4)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("name", "Toy set", "use lower-case letters, digits and _ only"),
        ("version", "1.0", "three numbers"),
        ("unit", "db", "use one of dB, linear"),
        ("quantity", "sigma", "use one of sigma0, gamma0, beta0"),
    ],
)
def test_bad_values_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        toy_contract(**{field: value})


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "holds no contract.json: not a record set, or its preparation has not finished"),
        ("{", "cannot be read"),
        pytest.param("[" * 100_000, "cannot be read", id="deep"),
        ("[]", "has schema None"),
        ('{"schema": 99}', "has schema 99, this version reads 1"),
        ('{"schema": 1}', "is not a contract"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "contract.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_contract(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no record set at .*nowhere: the folder does not exist"):
        read_contract(tmp_path / "nowhere")


def test_contracts_are_comparable_and_frozen():
    assert isinstance(toy_contract(), Contract)
    with pytest.raises(AttributeError):
        toy_contract().unit = "linear"
