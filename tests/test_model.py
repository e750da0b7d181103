"""The network: its size and names, its outputs against numpy, tiles, files, imports, and the learning rate."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from runs import BANDS, change_catalog, make_catalog, make_config
from safetensors.numpy import load_file

from hpc_ae.catalog.catalog import open_catalog
from hpc_ae.errors import DamageError, InputError
from hpc_ae.files import publish_json, read_json, seal
from hpc_ae.model.architecture import Architecture
from hpc_ae.model.autoencoder import Autoencoder, make_autoencoder
from hpc_ae.model.encoding import Encoding
from hpc_ae.model.files import load_autoencoder, read_model, weights_of, write_model
from hpc_ae.model.forward import make_forward
from hpc_ae.model.scaling import Scaling
from hpc_ae.model.schedule import learning_rate
from hpc_ae.model.weights import Imported, Origin, Trained
from hpc_ae.model_import import import_model
from hpc_ae.photometry import simulate_stars
from hpc_ae.training.job import make_scaling

TRAINING = Trained(
    catalog_digest="sha256:0",
    steps=7,
    best_step=7,
    validation_mse_mag2=None,
    num_training_stars=9,
    num_validation_stars=0,
    world_size=1,
    compute="torch",
    torch=torch.__version__,
)
MEAN, STD = [19.9, 18.5, 18.0, 17.8, 17.7], [1.4, 1.3, 1.3, 1.25, 1.2]


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    """The default model, with weights that are not at their initial values."""
    model = make_autoencoder(Architecture(BANDS), MEAN, STD, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def magnitude() -> np.ndarray:
    """Magnitudes of 10,000 simulated stars."""
    return np.ascontiguousarray(simulate_stars(0, 10_000, 5)["magnitude"], np.float32)


@pytest.fixture(scope="module", params=["auto", "torch"])
def forward(model: Autoencoder, request: pytest.FixtureRequest) -> Callable[[np.ndarray], Encoding]:
    """The compute path that encode would use on this machine's CPU, and PyTorch's operators."""
    return make_forward(weights_of(model), compute=request.param)


@pytest.fixture
def model_dir(model: Autoencoder, tmp_path: Path) -> Path:
    """The model on disk."""
    write_model(tmp_path / "model", model.architecture, model.state_dict(), Origin(training=TRAINING))
    return tmp_path / "model"


def numpy_layers(tensors: dict[str, np.ndarray], part: str, values: np.ndarray) -> np.ndarray:
    """Encoder or decoder in numpy, float64, by the contract alone: Linear, SiLU, LayerNorm, ..., Linear."""
    numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith(part)})
    for number in numbers:
        weight = tensors[f"{part}.{number}.weight"].astype(np.float64)
        bias = tensors[f"{part}.{number}.bias"].astype(np.float64)
        if weight.ndim == 2:
            values = values @ weight.T + bias
            if number != numbers[-1]:
                values = values / (1 + np.exp(-values))
        else:
            centred = values - values.mean(axis=1, keepdims=True)
            values = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5) * weight + bias
    return values


def numpy_forward(path: Path, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, reconstruction and reconstruction error from model.safetensors alone."""
    tensors = load_file(path)
    mean, std = (tensors[f"scaling.{name}"].astype(np.float64) for name in ("mean", "std"))
    latent = numpy_layers(tensors, "encoder", (magnitude.astype(np.float64) - mean) / std)
    reconstruction = numpy_layers(tensors, "decoder", latent) * std + mean
    return latent, reconstruction, np.sqrt(np.square(magnitude - reconstruction).mean(axis=1))


def test_number_of_parameters(model: Autoencoder) -> None:
    """5-40-40-40-40-2 and its mirror have 11,127 parameters; the scaling is not among them."""
    assert sum(tensor.numel() for tensor in model.parameters()) == 11_127


def test_tensor_names(model_dir: Path) -> None:
    """The file has the names of the contract and no others, all float32."""
    layers = [f"{number}.{kind}" for number in range(13) if number % 3 != 1 for kind in ("weight", "bias")]
    expected = {f"{part}.{layer}" for part in ("encoder", "decoder") for layer in layers}
    tensors = load_file(model_dir / "model.safetensors")
    assert tensors.keys() == expected | {"scaling.mean", "scaling.std"}
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert tensors["encoder.2.weight"].shape == (40,) and tensors["encoder.12.weight"].shape == (2, 40)


def test_record_of_a_model(model_dir: Path) -> None:
    """model.json says bands, hidden, latent and version, and is sealed."""
    record = read_json(model_dir / "model.json", sealed=True)
    assert (record["bands"], record["hidden"], record["latent"]) == (list(BANDS), [40] * 4, 2)
    assert (record["format"], record["version"], record["training"]) == ("hpc_ae/model", 1, TRAINING.to_json())


def test_outputs_agree_with_numpy(
    model_dir: Path, forward: Callable[[np.ndarray], Encoding], magnitude: np.ndarray
) -> None:
    """Latents and errors are those of a plain float64 forward pass: 99.9 % within 1e-4, all within 2e-3."""
    encoding = forward(magnitude)
    latent, reconstruction, error = numpy_forward(model_dir / "model.safetensors", magnitude)
    pairs = [
        (encoding.latent, latent),
        (encoding.reconstruction, reconstruction),
        (encoding.reconstruction_error, error),
    ]
    for got, expected in pairs:
        assert got.dtype == np.float32 and got.shape == expected.shape
        difference = np.abs(got - expected)
        assert np.quantile(difference, 0.999) < 1e-4 and difference.max() < 2e-3


def assert_same_bits(part: Encoding, whole: Encoding, rows: Any) -> None:
    """The outputs of some stars are bitwise those of `rows` of the whole."""
    for name in ("latent", "reconstruction", "reconstruction_error"):
        got, expected = getattr(part, name), getattr(whole, name)[rows]
        assert got.tobytes() == np.ascontiguousarray(expected).tobytes(), name


@pytest.mark.parametrize("rows", [slice(0, 1), slice(9_999, None), slice(17, 20), slice(1, None), slice(4_095, 8_193)])
def test_bits_do_not_depend_on_position_and_number(
    forward: Callable[[np.ndarray], Encoding], magnitude: np.ndarray, rows: slice
) -> None:
    """A part of the stars, which then lie elsewhere in their tiles, gives the bits that the whole gives."""
    assert_same_bits(forward(magnitude[rows]), forward(magnitude), rows)


def test_bits_do_not_depend_on_order(forward: Callable[[np.ndarray], Encoding], magnitude: np.ndarray) -> None:
    """Shuffled stars, so other neighbours, give the same bits star by star."""
    order = np.random.default_rng(1).permutation(len(magnitude))
    assert_same_bits(forward(magnitude[order]), forward(magnitude), order)


def test_bits_do_not_depend_on_bad_neighbours(forward: Callable[[np.ndarray], Encoding], magnitude: np.ndarray) -> None:
    """Rows of NaN, infinity and -9999 next to a star leave its bits alone."""
    spoilt = magnitude.copy()
    for start, value in enumerate((np.nan, np.inf, -np.inf, -9999.0, 3e38)):
        spoilt[start::10] = value
    good = np.arange(len(magnitude)) % 10 >= 5
    with np.errstate(all="ignore"):
        encoding = forward(spoilt)
    kept = Encoding(encoding.latent[good], encoding.reconstruction[good], encoding.reconstruction_error[good])
    assert_same_bits(kept, forward(magnitude), good)
    assert np.isnan(encoding.reconstruction_error[0])


def test_no_stars(forward: Callable[[np.ndarray], Encoding]) -> None:
    """No stars give empty outputs of the right width."""
    encoding = forward(np.empty((0, 5), np.float32))
    assert encoding.latent.shape == (0, 2) and encoding.reconstruction.shape == (0, 5)


def test_input_is_not_changed(forward: Callable[[np.ndarray], Encoding], magnitude: np.ndarray) -> None:
    """A read-only or strided view of the magnitudes is taken as it is, and stays as it is."""
    wide = np.concatenate([magnitude, magnitude], axis=1)[:50, :5]
    before = wide.copy()
    assert_same_bits(forward(wide), forward(magnitude), slice(0, 50))
    assert_array_equal(wide, before)


def test_model_files_round_trip(model: Autoencoder, model_dir: Path) -> None:
    """Reading a model gives every tensor bit by bit, and its record."""
    loaded, record = read_model(model_dir)
    assert loaded.architecture == model.architecture and record.training == TRAINING
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_flipped_bit_is_damage(model_dir: Path, name: str, share: float) -> None:
    """One flipped bit anywhere in a model directory is a DamageError that names the file."""
    data = bytearray((model_dir / name).read_bytes())
    data[int(share * len(data))] ^= 2
    (model_dir / name).write_bytes(data)
    with pytest.raises(DamageError, match=name):
        read_model(model_dir)


def test_missing_files(model_dir: Path, tmp_path: Path) -> None:
    """Without weights a model is damaged; without a record it is not there, and the message says what to do."""
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(DamageError, match=r"model\.safetensors"):
        read_model(model_dir)
    with pytest.raises(InputError, match="hpc-ae model import"):
        read_model(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("hidden", [40, 40, 40, 41]), ("latent", 3), ("bands", ["u", "g"])])
def test_record_of_another_shape(model_dir: Path, key: str, value: object) -> None:
    """Weights that are not of the record's architecture are an InputError that names a tensor."""
    record = read_json(model_dir / "model.json")
    publish_json(model_dir / "model.json", seal({**record, key: value}))
    with pytest.raises(InputError, match=r"(encoder|decoder|scaling)\."):
        read_model(model_dir)


@pytest.mark.parametrize("hidden", [(), (7,), (40, 40, 40, 40), (9, 5)])
@pytest.mark.parametrize("latent", [1, 3])
def test_shapes_are_those_of_the_network(hidden: tuple[int, ...], latent: int) -> None:
    """Names, shapes and order that are known without PyTorch are those that PyTorch has."""
    network = make_autoencoder(Architecture(BANDS, hidden, latent), [18.0] * 5, [2.0] * 5, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert network.architecture.tensor_shapes() == shapes
    assert list(network.architecture.parameter_shapes()) == [name for name, _ in network.named_parameters()]
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in network.parameters()])
    assert_array_equal(weights_of(network).parameters, flat)


@pytest.mark.parametrize("name", ["bands", "hidden", "latent", "weights_digest"])
def test_record_that_lacks_a_field(model_dir: Path, name: str) -> None:
    """A record without its shape or its weights' digest, sealed again, is damage and no crash."""
    record = read_json(model_dir / "model.json")
    del record[name]
    publish_json(model_dir / "model.json", seal(record))
    with pytest.raises(DamageError, match=r"model\.(json|safetensors)"):
        read_model(model_dir)


def test_missing_and_unknown_tensors(model: Autoencoder) -> None:
    """A tensor too few or too many is an InputError that names it."""
    tensors = dict(model.state_dict())
    with pytest.raises(InputError, match=r"encoder\.99\.weight"):
        load_autoencoder(model.architecture, tensors | {"encoder.99.weight": torch.zeros(2, 2)}, "here")
    del tensors["decoder.12.bias"]
    with pytest.raises(InputError, match=r"decoder\.12\.bias"):
        load_autoencoder(model.architecture, tensors, "here")


def plain_state_dict(model: Autoencoder) -> dict[str, torch.Tensor]:
    """What the lecture's script saves: the two Sequentials, no scaling."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("scaling.")}


def test_import_of_a_state_dict(model: Autoencoder, tmp_path: Path, magnitude: np.ndarray) -> None:
    """An imported state dict encodes as the network itself does, with magnitude / 20."""
    torch.save(plain_state_dict(model), tmp_path / "weights.pt")
    import_model(tmp_path / "weights.pt", tmp_path / "model", BANDS, divide=20.0)
    loaded, record = read_model(tmp_path / "model")
    assert isinstance(record.training, Imported) and record.training.imported == "weights.pt"
    assert_allclose(loaded.scaling.mean, 0)
    assert_allclose(loaded.scaling.std, 20)
    with torch.no_grad():
        expected = model.encoder(torch.from_numpy(magnitude[:99]) / 20)
    assert_allclose(make_forward(weights_of(loaded))(magnitude[:99]).latent, expected, atol=1e-5)


def test_import_with_mean_and_std(model: Autoencoder, tmp_path: Path) -> None:
    """--mean and --std give a model equal to the one whose scaling they are."""
    torch.save(plain_state_dict(model), tmp_path / "weights.pt")
    import_model(tmp_path / "weights.pt", tmp_path / "model", BANDS, mean=MEAN, std=STD)
    for name, tensor in read_model(tmp_path / "model")[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"divide": 20.0, "mean": MEAN, "std": STD},
        {"divide": 20.0, "mean": MEAN},
        {"mean": MEAN},
        {"mean": MEAN[:4], "std": STD[:4]},
        {"divide": -20.0},
        {"mean": [float("nan"), *MEAN[1:]], "std": STD},
        {"mean": MEAN, "std": [0.0, *STD[1:]]},
    ],
)
def test_import_with_a_wrong_scaling(model: Autoencoder, tmp_path: Path, scaling: dict[str, Any]) -> None:
    """A scaling that is missing, said twice, of the wrong length or no number is an InputError; nothing is written."""
    torch.save(plain_state_dict(model), tmp_path / "weights.pt")
    with pytest.raises(InputError):
        import_model(tmp_path / "weights.pt", tmp_path / "model", BANDS, **scaling)
    assert not (tmp_path / "model").exists()


def _without_decoder(tensors: dict[str, torch.Tensor]) -> object:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("encoder")}


def _other_bands(tensors: dict[str, torch.Tensor]) -> object:
    return {**tensors, "encoder.0.weight": torch.zeros(40, 4)}


def _transposed(tensors: dict[str, torch.Tensor]) -> object:
    return {**tensors, "decoder.0.weight": tensors["decoder.0.weight"].T}


def _named_layers(tensors: dict[str, torch.Tensor]) -> object:
    return {name.replace("encoder.0", "encoder.first"): tensor for name, tensor in tensors.items()}


def _nested(tensors: dict[str, torch.Tensor]) -> object:
    return {"model": tensors, "epoch": 3}


def _a_list(tensors: dict[str, torch.Tensor]) -> object:
    return list(tensors.values())


@pytest.mark.parametrize("change", [_without_decoder, _other_bands, _transposed, _named_layers, _nested, _a_list])
def test_import_of_something_else(
    model: Autoencoder, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    """What is not a plain state dict of this autoencoder is an InputError; nothing is written."""
    torch.save(change(plain_state_dict(model)), tmp_path / "weights.pt")
    with pytest.raises(InputError):
        import_model(tmp_path / "weights.pt", tmp_path / "model", BANDS, divide=20.0)
    assert not (tmp_path / "model").exists()


def test_import_does_not_overwrite(model: Autoencoder, model_dir: Path, tmp_path: Path) -> None:
    """A model that is there already is left alone."""
    torch.save(plain_state_dict(model), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="already"):
        import_model(tmp_path / "weights.pt", model_dir, BANDS, divide=20.0)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.open, (self.path, os.O_CREAT | os.O_WRONLY)


@pytest.mark.parametrize("wrapped", [False, True])
def test_pickle_bomb_is_refused(tmp_path: Path, wrapped: bool) -> None:
    """A pickle that would run code is refused without running it, torch.save file or plain pickle."""
    victim, path = tmp_path / "victim", tmp_path / "bomb.pt"
    bomb = {"encoder.0.weight": Bomb(victim)}
    if wrapped:
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(InputError, match="not a plain PyTorch state dict"):
        import_model(path, tmp_path / "model", BANDS, divide=20.0)
    assert not victim.exists() and not (tmp_path / "model").exists()
    os.close(pickle.loads(pickle.dumps(Bomb(victim))))
    assert victim.exists(), "the bomb would not have gone off anyway"


@pytest.mark.parametrize("data", [b"", b"u,g,r,i,z\n1,2,3,4,5\n", b"PK\x03\x04", b"\x80\x02."])
def test_import_of_a_file_that_is_no_pickle(tmp_path: Path, data: bytes) -> None:
    """An empty file, a table, half a zip file and half a pickle are InputErrors."""
    (tmp_path / "weights.pt").write_bytes(data)
    with pytest.raises(InputError, match="not a plain PyTorch state dict"):
        import_model(tmp_path / "weights.pt", tmp_path / "model", BANDS, divide=20.0)
    with pytest.raises(InputError, match="no such file"):
        import_model(tmp_path / "nowhere.pt", tmp_path / "model", BANDS, divide=20.0)


@pytest.mark.parametrize("num_steps", [10, 37, 100, 1_000, 12_345])
def test_learning_rate_is_that_of_torch(num_steps: int) -> None:
    """one_cycle equals torch's OneCycleLR at every step, to 1e-9."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stepping the schedule alone is what is wanted here
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=4e-3, total_steps=num_steps, cycle_momentum=False
        )
        expected = [scheduler.get_last_lr()[0]]
        for _ in range(num_steps - 1):
            scheduler.step()
            expected.append(scheduler.get_last_lr()[0])
    got = [learning_rate("one_cycle", 4e-3, step, num_steps) for step in range(num_steps)]
    assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("num_steps", range(1, 10))
def test_learning_rate_of_very_short_runs(num_steps: int) -> None:
    """Every step count has positive rates that never pass the peak."""
    rates = [learning_rate("one_cycle", 4e-3, step, num_steps) for step in range(num_steps)]
    assert all(0 < rate <= 4e-3 for rate in rates)


def test_constant_learning_rate() -> None:
    """constant is the peak at every step."""
    assert {learning_rate("constant", 2e-3, step, 9) for step in range(9)} == {2e-3}


def test_scaling() -> None:
    """Network input = (magnitude - mean) / std, and inverse gives the magnitudes back."""
    magnitude = torch.tensor([[20.0, 18.0], [10.0, 19.0]])
    assert_allclose(Scaling([0.0, 0.0], [20.0, 20.0])(magnitude), magnitude / 20)
    scaling = Scaling([18.0, 17.0], [2.0, 0.5])
    assert_allclose(scaling(magnitude), [[1.0, 2.0], [-4.0, 4.0]])
    assert_allclose(scaling.inverse(scaling(magnitude)), magnitude)


@pytest.mark.parametrize(("mean", "std"), [([1.0], [0.0]), ([1.0], [-1.0]), ([1.0], [1.0, 1.0]), ([1.0], [np.nan])])
def test_wrong_scaling(mean: list[float], std: list[float]) -> None:
    """A std that is not positive, or of another length, is an InputError that names the key."""
    with pytest.raises(InputError, match=r"model\.scaling"):
        Scaling(mean, std)


def test_same_seed_same_model() -> None:
    """The initial weights depend on the seed alone, and drawing them leaves torch's own generator as it was."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    models = [make_autoencoder(Architecture(BANDS), MEAN, STD, seed) for seed in (1, 1, 2)]
    first, second, other = (model.state_dict()["encoder.0.weight"] for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"mean": [1, 2], "std": [1, 2]}, "2 means, 5 bands"),
        ({"mean": MEAN, "std": [1, 2]}, "2 stds, 5 bands"),
        ("standardize", "band r is constant[\\s\\S]*model.scaling.divide=20"),
    ],
)
def test_scaling_that_does_not_fit_the_catalog(tmp_path: Path, scaling: object, words: str) -> None:
    """Numbers for other bands, and a band that does not vary, are InputErrors before anything is trained."""

    def flatten(arrays: dict[str, np.ndarray]) -> None:
        arrays["magnitude"][:, 2] = 18.1

    catalog_dir = change_catalog(make_catalog(tmp_path / "varied", 500), tmp_path / "catalog", flatten)
    catalog = open_catalog(catalog_dir)
    with pytest.raises(InputError, match=words) as caught:
        make_scaling(make_config(tmp_path / "run", catalog_dir, model={"scaling": scaling}).model, catalog)
    assert caught.value.exit_status == 2
    fitting = make_config(tmp_path / "run", catalog_dir, model={"scaling": {"divide": 20}})
    assert make_scaling(fitting.model, catalog) == ([0.0] * 5, [20.0] * 5)


def test_a_foreign_file_speaks_in_our_words(tmp_path: Path) -> None:
    """Neither torch's text nor control characters of the file reach the terminal."""
    path = tmp_path / "bomb.pt"
    torch.save({"encoder.0.weight": Bomb(tmp_path / "victim")}, path)
    with pytest.raises(InputError, match="holds code") as caught:
        import_model(path, tmp_path / "model", BANDS, divide=20.0)
    assert "weights_only" not in str(caught.value) and "\x1b" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        load_autoencoder(Architecture(BANDS), {"\x1b[31mred": torch.zeros(1)}, "here")
    assert "\x1b" not in str(caught.value)
