"""The config: defaults, overrides, and a clear refusal of everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpc_ae.config import RunConfig, check_config, dump_config, known_keys, load_config
from hpc_ae.errors import InputError


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start at the working directory: an empty one."""
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str) -> RunConfig:
    """The config of a file that says `text`."""
    Path("config.yaml").write_text(text, encoding="utf-8")
    return load_config(Path("config.yaml"), list(overrides))


def refusal(text: str, *overrides: str) -> str:
    """The message with which a config is refused with exit status 2."""
    with pytest.raises(InputError) as caught:
        load(text, *overrides)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_run_dir_is_enough(tmp_path: Path) -> None:
    """A config that says only its run directory has every default."""
    config = load("run_dir: runs/x\n")
    assert config.run_path == tmp_path / "runs" / "x"
    assert config.catalog_path == config.run_path / "catalog"
    assert config.model_path == config.run_path / "model"
    assert config.encoding_path == config.run_path / "encoding"
    assert (config.seed, config.model.hidden, config.model.latent) == (1, [40, 40, 40, 40], 2)
    assert (config.cluster.kind, config.train.batch_size % config.train.partitions) == ("local", 0)


def test_resolved_config_reads_back() -> None:
    """What is written to RUN_DIR/config.yaml loads as the same config."""
    config = load("run_dir: x\nmodel: {scaling: {divide: 20}}\ncatalog: {source: {raw: [a.csv]}}\n", "cluster.mem=64G")
    Path("config.yaml").write_text(dump_config(config))
    assert load_config(Path("config.yaml")) == config


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("train.epochs=3", "train.epochs", 3),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("catalog.source.simulate.stars=20000", "catalog.source.simulate.stars", 20000),
        ("catalog.source.simulate.stars=1e6", "catalog.source.simulate.stars", 1_000_000),
        ("model.hidden=[8, 4]", "model.hidden", [8, 4]),
        ("model.scaling.divide=20", "model.scaling.divide", 20.0),
        ("encode.reconstruction=false", "encode.reconstruction", False),
        ("cluster.time='01:00:00'", "cluster.time", "01:00:00"),
        ("cluster.time=24:00:00", "cluster.time", "24:00:00"),
        ("cluster.partition=null", "cluster.partition", None),
        ("cluster.setup=[module load python]", "cluster.setup", ["module load python"]),
    ],
)
def test_overrides_of_any_depth(override: str, key: str, value: object) -> None:
    """`section.key=value` on the command line replaces or adds a value, whatever the file says of its section."""
    found: object = load("run_dir: x\nmodel: {latent: 3}\ncatalog: {source: null}\n", override)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


def test_overrides_of_one_section_keep_the_rest() -> None:
    """An override replaces its key alone; of two for one key the last holds."""
    config = load("run_dir: x\ntrain: {epochs: 5, batch_size: 64}\n", "train.epochs=6", "train.epochs=7", "run_dir=y")
    assert (config.train.epochs, config.train.batch_size, config.run_path.name) == (7, 64, "y")


@pytest.mark.parametrize("override", ["epochs", "=3", "train..epochs=3", "train.epochs:3", "-x=1", "train.epochs=[1"])
def test_what_is_no_override(override: str) -> None:
    """An override that is none is refused and shown."""
    assert "command line" in refusal("run_dir: x\n", override)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("trian: {epochs: 3}", "did you mean train"),
        ("train: {epoch: 3}", "did you mean train.epochs"),
        ("train: {batchsize: 3}", "did you mean train.batch_size"),
        ("epochs: 3", "did you mean train.epochs"),
        ("catalog: {source: {simulate: {star: 3}}}", "did you mean catalog.source.simulate.stars"),
        ("train: {qqqqqqqqqqqq: 3}", "valid here: train.epochs"),
    ],
)
def test_unknown_key_names_the_nearest(text: str, nearest: str) -> None:
    """An unknown key is refused with the keys that were perhaps meant."""
    message = refusal(f"run_dir: x\n{text}\n")
    assert "unknown key" in message and nearest in message and "config.yaml" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: 1\nseed: 2", "occurs twice"),
        ("train: {epochs: 1, epochs: 2}", "occurs twice"),
        ("train: &t {epochs: 1}\nencode: *t", "aliases"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        ("<<: {seed: 2}", "tag"),
        ("seed: !!python/object/apply:os.system [ls]", "tag"),
        ("seed: !!python/name:os.system", "tag"),
        ("seed: !custom 1", "tag"),
        ("? [1]\n: 2", "unhashable"),
        ("train: {epochs: 1", "expected"),
        ("\tseed: 1", "token"),
        ("seed: 1\n--- \nseed: 2", "single document"),
        ("[" * 5000, ""),
        ("seed: \x00", "special characters"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    """Duplicate keys, aliases, tags and what is no YAML are refused as such."""
    message = refusal(f"run_dir: x\n{text}\n")
    assert "not valid YAML" in message and reason in message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train: {learning_rate: 1e-3}", "learning_rate", 1e-3),
        ("train: {learning_rate: 2E-3}", "learning_rate", 2e-3),
        ("train: {learning_rate: 4.e-3}", "learning_rate", 4e-3),
        ("train: {epochs: 010}", "epochs", 10),
        ("train: {epochs: 1_000}", "epochs", 1000),
        ("train: {epochs: 0x10}", "epochs", 16),
    ],
)
def test_numbers_mean_what_they_say(text: str, key: str, value: float) -> None:
    """YAML 1.1 would read 1e-3 as text and 010 as 8."""
    assert getattr(load(f"run_dir: x\n{text}\n").train, key) == value


def test_time_of_day_is_not_seconds() -> None:
    """YAML 1.1 would read 24:00:00 as 86400; a bare number, whose unit nobody knows, is refused."""
    assert load("run_dir: x\ncluster: {time: 24:00:00}\n").cluster.time == "24:00:00"
    assert load("run_dir: x\ncluster: {time: 1-12:00:00}\n").cluster.time == "1-12:00:00"
    assert "quote it" in refusal("run_dir: x\ncluster: {time: 86400}\n")


WRONG = [
    "seed: -1", "seed: 4294967296", "seed: 1.5", "seed: one", "seed: null", "seed: yes",
    "train: {epochs: 0}", "train: {epochs: -3}", "train: {epochs: 1:30}", "train: {epochs: yes}", "train: {epochs: []}",
    "train: {batch_size: 0}", "train: {learning_rate: 0}", "train: {learning_rate: .inf}",
    "train: {learning_rate: .nan}", "train: {learning_rate: -1e-3}", "train: {learning_rate: on}",
    "train: {optimizer: sgd}", "train: {validation_fraction: 0.9}", "train: {precision: float16}", "train: 3",
    "train: [1]", "train: {checkpoint_seconds: 0}", "train: {tensorboard: 7}",
    "model: {hidden: []}", "model: {hidden: [0]}", "model: {hidden: 40}", "model: {latent: 0}",
    "model: {scaling: divide}", "model: {scaling: {divide: 0}}", "model: {scaling: {divide: .inf}}",
    "model: {scaling: {mean: [1], std: [0]}}", "model: {scaling: {mean: [.nan], std: [1]}}",
    "model: {scaling: {mean: [1]}}",
    "catalog: {shard_rows: 0}", "catalog: {shard_rows: 4000001}", "catalog: {bad: ignore}",
    "catalog: {source: {}}", "catalog: {source: {simulate: {}, raw: [x]}}", "catalog: {source: {raw: []}}",
    "catalog: {source: {simulate: {bad_rows: 1}}}", "catalog: {source: {simulate: {stars: 0}}}", 'catalog: {path: ""}',
    'catalog: {path: "a\\nb"}', "encode: {reconstruction: maybe}", "postprocess: {anomalies: 0}",
    "cluster: {kind: pbs}", "cluster: {nodes: 0}", "cluster: {gpus_per_node: -1}", "cluster: {partition: 'a b'}",
    'cluster: {account: "x\\n#SBATCH -w n1"}', "cluster: {qos: $(id)}", "cluster: {time: '1;2'}",
    'cluster: {setup: ["a\\nb"]}', "cluster: {setup: [1]}",
    "cluster: {modules: ['a b']}", "cluster: {modules: ['a;b']}",
    "cluster: {modules: [/tmp/x]}", "cluster: {modules: [gcc, a/../../tmp/x]}", "cluster: {modules: [./x]}",
    "cluster: {modules: [-f]}", "cluster: {mpi: ../../tmp/x}", "cluster: {mpi: 'pmi2,x'}", "cluster: {mpi: ''}",
    "cluster: {environment: {A B: c}}", 'cluster: {environment: {A: "b\\nc"}}', "cluster: {environment: {A=B: c}}",
    "cluster: {sbatch: {output: x}}", "cluster: {sbatch: {wrap: x}}", "cluster: {sbatch: {exclusive: no}}",
    "cluster: {sbatch: {nice: 'a b'}}", 'cluster: {sbatch: {nice: "1\\n#SBATCH -w n1"}}', "cluster: {mail_type: end}",
    "cluster: {mail_user: 'a b@c'}", "cluster: {time: soon}", "cluster: {stages: {trian: {nodes: 2}}}",
    "cluster: {stages: {train: {array: 2}}}", "cluster: {stages: {encode: {array: 0}}}",
    "cluster: {stages: {encode: {kind: local}}}", "cluster: {stages: {encode: {partition: 'a b'}}}",
    "1: 2", "run_dir: 5", "run_dir: 100%j",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_wrong_value(text: str) -> None:
    """Each wrong value is status 2 with a message that names its key."""
    key = next(iter(yaml.safe_load(text)))
    message = refusal(text if key == "run_dir" else f"run_dir: x\n{text}\n")
    assert "the config is wrong" in message and str(key) in message


@pytest.mark.parametrize("text", ["run_dir:", 'run_dir: ""', 'run_dir: "a\\0b"', "seed: 1", "", "- x", "text"])
def test_no_usable_run_dir(text: str) -> None:
    """A config without a run directory, or that is no set of keys, is refused."""
    assert "config" in refusal(text)


@pytest.mark.parametrize("make", [None, "directory", "binary"])
def test_unreadable_file(tmp_path: Path, make: str | None) -> None:
    """A config that is missing, a directory, or no text is status 2 with its path."""
    path = tmp_path / "given.yaml"
    if make == "directory":
        path.mkdir()
    elif make == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read the config[\s\S]*given\.yaml"):
        load_config(path)


def test_relative_paths_become_absolute(tmp_path: Path) -> None:
    """Paths in file and overrides start at the working directory; ~ is the home."""
    config = load(
        "run_dir: x\ncatalog: {path: c, source: {raw: ['d/*.csv', /e.csv]}}\nencode: {model: ../m}\n", "run_dir=~/r"
    )
    assert config.run_dir == str(Path.home() / "r") and config.catalog.path == str(tmp_path / "c")
    assert config.catalog.source is not None
    assert config.catalog.source.raw == [str(tmp_path / "d/*.csv"), "/e.csv"]
    assert config.encode.model is not None and Path(config.encode.model).is_absolute()


def test_values_need_no_file(tmp_path: Path) -> None:
    """A config can be checked from values alone."""
    assert check_config({"run_dir": "x"}, "here").run_path == tmp_path / "x"


def test_every_key_is_described() -> None:
    """Every key has a description, which `init` and the documentation print."""
    keys = known_keys()
    assert {"run_dir", "train.epochs", "catalog.source.simulate.stars", "model.scaling.divide"} <= keys.keys()
    assert [key for key, field in keys.items() if not field.description] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{divide: 0}", "model.scaling.divide = 0: Input should be greater than 0"),
        ("{mean: [1], std: [0]}", "model.scaling.std.0 = 0: Input should be greater than 0"),
        ("{mean: [1]}", "model.scaling.std is missing"),
        ("{divide: 20, mean: [1]}", "model.scaling.mean does not go with the other keys there"),
        ("divide", "model.scaling = 'divide': Input should be 'standardize'"),
    ],
)
def test_one_kind_of_scaling_is_explained(text: str, line: str) -> None:
    """Of the three kinds of scaling only the one that was meant is complained about, once."""
    assert refusal(f"run_dir: x\nmodel: {{scaling: {text}}}\n").splitlines()[0] == f"the config is wrong: {line}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("run_dir:", ["got:      null", "expected: a valid string: the directory that", "to do:    correct run_dir"]),
        ("seed: 1", ["expected: the directory that the run writes to", "to do:    add run_dir"]),
        ("{run_dir: x, seed: -1}", ["got:      -1", "expected: greater than or equal to 0: of everything random"]),
        ("{run_dir: x, model: {hidden: [8, 0]}}", ["key model.hidden.1", "got:      0", "widths of the encoder"]),
        ("{run_dir: x, model: {scaling: divide}}", ["got:      'divide'", "{divide: 20} or {mean, std}"]),
        ("{run_dir: x, train: {optimizer: sgd}}", ["got:      'sgd'", "expected: 'adamw' or 'adam'"]),
        ("{run_dir: x, train: {epoch: 3}}", ["got:      train.epoch = 3", "to do:    correct the key train.epoch"]),
    ],
)
def test_first_problem_is_told_in_full(text: str, lines: list[str]) -> None:
    """What was found, what is expected and what to do stand on lines of their own."""
    message = refusal(text)
    assert [line for line in lines if line not in message] == []


def test_every_problem_is_named() -> None:
    """The first line has all problems, the others are about the first."""
    message = refusal("{run_dir: x, seed: -1, train: {epochs: 0}}")
    assert "seed = -1" in message.splitlines()[0] and "train.epochs = 0" in message.splitlines()[0]


def test_missing_file_says_what_to_start_from(tmp_path: Path) -> None:
    """The config that the message offers is there."""
    with pytest.raises(InputError, match=r"configs/quickstart\.yaml is one to start from"):
        load_config(tmp_path / "nowhere.yaml")
    assert (Path(__file__).parents[1] / "configs" / "quickstart.yaml").is_file()


def test_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${NAME} and ${NAME:-default} are filled in; what is not set is refused by name; $NAME is only a name."""
    monkeypatch.setenv("SCRATCH_OF_TEST", "/scratch/me")
    monkeypatch.delenv("NOT_SET_AT_ALL", raising=False)
    catalog = "{path: '${NOT_SET_AT_ALL:-c}/d', source: {raw: ['${SCRATCH_OF_TEST}/*']}}"
    config = load(f"run_dir: ${{SCRATCH_OF_TEST}}/x\ncatalog: {catalog}")
    assert config.run_dir == "/scratch/me/x" and config.catalog.path == str(tmp_path / "c" / "d")
    assert config.catalog.source is not None and config.catalog.source.raw == ["/scratch/me/*"]
    assert "NOT_SET_AT_ALL" in refusal("run_dir: ${NOT_SET_AT_ALL}/x")
    assert load("run_dir: a$SCRATCH_OF_TEST").run_dir == str(tmp_path / "a$SCRATCH_OF_TEST")


def test_stages_have_their_own_resources() -> None:
    """What a stage says replaces what `cluster` says, key by key; its sbatch options are added to those of all."""
    cluster = load(
        "run_dir: x\ncluster: {nodes: 4, time: '60', sbatch: {nice: 5, tmp: 1G},"
        " stages: {train: {nodes: 2, sbatch: {nice: 9}}, encode: {array: 8}}}",
        "cluster.kind=slurm",
    ).cluster
    train = cluster.of_stage("train")
    assert (train.nodes, train.time, train.sbatch) == (2, "60", {"nice": 9, "tmp": "1G"})
    assert cluster.of_stage("postprocess") == cluster
    assert cluster.array_of("encode") == (8, 8) and cluster.array_of("train") == (1, 1)
    assert cluster.model_copy(update={"kind": "local"}).array_of("encode") == (1, 1)


def test_unknown_stage_names_the_nearest() -> None:
    """A misspelled stage or key of one is answered with what was perhaps meant."""
    assert "did you mean cluster.stages.train" in refusal("run_dir: x\ncluster: {stages: {trian: {nodes: 2}}}")
    assert "did you mean cluster.stages.train.nodes" in refusal("run_dir: x\ncluster: {stages: {train: {node: 2}}}")


@pytest.mark.parametrize("text", ["a #x", "#x", "a  # b", "'a' #x"])
def test_override_is_taken_whole(tmp_path: Path, text: str) -> None:
    """YAML's comments are none on a command line: a shell has its own."""
    path = tmp_path / "config.yaml"
    path.write_text("run_dir: runs/a\ncatalog: {path: stars}\n")
    assert load_config(path, [f"run_dir={tmp_path}/{text}"]).run_dir == f"{tmp_path}/{text}"
    with pytest.raises(InputError, match=r"train\.steps"):
        load_config(path, ["train.steps=10 # ten"])
    assert load_config(path, ["seed=7"]).seed == 7 and load_config(path, ["catalog.path=null"]).catalog.path is None


def test_backslash_in_run_dir(tmp_path: Path) -> None:
    """Slurm would write its logs elsewhere."""
    path = tmp_path / "config.yaml"
    path.write_text("run_dir: 'runs/a\\b'\ncatalog: {path: stars}\n")
    with pytest.raises(InputError, match="no backslash"):
        load_config(path)
