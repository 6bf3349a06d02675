"""Users' own files: loaded once, known by their contents, and told in one line what is wrong with them."""

import hashlib
import pkgutil
import subprocess
import sys
from importlib import import_module

import own_methods
import pytest

import training
from training import extensions
from training.errors import UserError
from training.recipes import MODIFIERS, RECIPES
from training.registry import Registry
from training.resolve import resolve
from training.spec import TrialSpec

BASE = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1}}

pytestmark = pytest.mark.usefixtures("own_files")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(own_methods.HALVED)
    return path


def registered():
    return [sorted(registry.entries) for registry in extensions.registries()]


def test_what_a_file_registers_is_there_and_says_where_it_is_from(file):
    origin = extensions.load(file)
    assert origin == ("mine.py", hashlib.sha256(file.read_bytes()).hexdigest())
    assert RECIPES.entries["halved"].origin == origin
    assert RECIPES.entries["halved"].summary == "TRADES with half a clean loss."
    assert RECIPES.entries["trades"].origin is None


def test_a_file_runs_once_whatever_it_is_called(file, tmp_path):
    file.write_text(own_methods.HALVED + f"\nopen({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    first = extensions.load(file)
    copy = file.rename(tmp_path / "other.py")
    assert extensions.load(copy) == first
    assert (tmp_path / "ran").read_text() == "x"


def test_a_file_may_define_dataclasses_and_leaves_no_bytecode(file, tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass, field, KW_ONLY\n"
    text += "@dataclass\nclass Thing:\n    a: int\n    _: KW_ONLY\n    b: list[int] = field(default_factory=list)\n"
    file.write_text(text + "\n".join(own_methods.HALVED.splitlines()[4:]))
    extensions.load(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


HEAD = "from training.recipes import MODIFIERS, RECIPES\n"
DOUBLE = HEAD + "@RECIPES.register('a')\ndef a(threat): 'A.'\n@RECIPES.register('a')\ndef b(threat): 'B.'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (1,\ny = 2\n", "mine.py, line 1: SyntaxError: '(' was never closed"),
        (
            "import os\n\nos.nothing()\n",
            "mine.py, line 3: AttributeError: module 'os' has no attribute 'nothing'",
        ),
        ("import absent_module\n", "mine.py, line 1: ModuleNotFoundError: No module named 'absent_module'"),
        ("def f():\n    raise ValueError('two\\nlines')\nf()\n", "mine.py, line 2: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        ("raise RuntimeError\n", "mine.py, line 1: RuntimeError"),
        ("", "mine.py: registers nothing"),
        ("\0", "mine.py"),
        (
            HEAD + "@RECIPES.register('trades')\ndef mine(threat): 'Mine.'\n",
            "mine.py, line 2: method 'trades' is registered already, by training.recipes",
        ),
        (DOUBLE, "mine.py, line 4: method 'a' is registered already, by mine.py"),
        (HEAD + "@RECIPES.register('m')\ndef m(threat, *, b: Unknown): 'M.'\n", "NameError: name 'Unknown'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_and_leaves_nothing_behind(file, text, words):
    before = registered()
    file.write_text(text)
    with pytest.raises(UserError) as error:
        extensions.load(file)
    message = str(error.value)
    assert words in message
    assert message.startswith(str(file))
    assert "\n" not in message
    assert registered() == before
    file.write_text(own_methods.HALVED)
    extensions.load(file)


def test_two_files_that_register_one_name_are_both_named(file, tmp_path):
    extensions.load(file)
    other = tmp_path / "other.py"
    other.write_text(own_methods.HALVED + "# changed\n")
    with pytest.raises(
        UserError, match=r"other\.py, line 14: method 'halved' is registered already, by mine\.py"
    ):
        extensions.load(other)


def test_a_file_that_is_not_there_or_no_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.py: there is no such file"):
        extensions.load(tmp_path / "absent.py")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        extensions.load(tmp_path / "folder.py")
    with pytest.raises(UserError, match="is no Python file"):
        extensions.load(tmp_path)


def test_the_name_of_a_builtin_is_taken_also_when_the_file_is_loaded_first(tmp_path):
    """The file imports only the registry: what is ours must be registered before it all the same."""
    (tmp_path / "mine.py").write_text(
        "from training.models.network import MODELS\n@MODELS.register('mlp')\ndef mlp(inputs): 'Mine.'\n"
    )
    code = f"import pathlib, training.extensions as e; e.load(pathlib.Path({str(tmp_path / 'mine.py')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "line 2: model 'mlp' is registered already, by training.models.mlp" in done.stderr


def test_a_store_gives_what_it_keeps_and_refuses_what_was_changed(file, tmp_path):
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    copy = tmp_path / "imports" / digest / "mine.py"
    with pytest.raises(UserError, match="there is no such file"):
        extensions.load_all({"mine.py": digest}, tmp_path / "imports")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(content + b"# changed\n")
    with pytest.raises(UserError, match=rf"{copy}: is not what it was"):
        extensions.load_all({"mine.py": digest}, tmp_path / "imports")
    assert "halved" not in RECIPES.entries
    copy.write_bytes(content)
    extensions.load_all({"mine.py": digest}, tmp_path / "imports")
    assert "halved" in RECIPES.entries


def test_what_is_named_and_not_loaded_is_refused_with_what_to_import(file):
    digest = extensions.digest_of(file.read_bytes())
    with pytest.raises(UserError, match=r"best\.pt: was trained with a file of .*--import mine\.py"):
        extensions.expect({"mine.py": digest}, "best.pt")
    file.write_text(own_methods.HALVED + "# another version\n")
    extensions.load(file)
    with pytest.raises(UserError, match=r"the one that was imported is another"):
        extensions.expect({"mine.py": digest}, "best.pt")
    extensions.expect({}, "best.pt")


def used(**sections):
    return extensions.used_by(resolve(TrialSpec.model_validate(BASE | sections)))


def test_a_spec_needs_the_files_that_registered_what_it_names(file, tmp_path):
    mine = dict([extensions.load(file)])
    (tmp_path / "data.py").write_text(own_methods.STRIPES)
    data = dict([extensions.load(tmp_path / "data.py")])
    assert used(method="trades+awp") == {}
    assert used(method="halved") == mine
    assert used(method="trades+untouched") == mine
    assert used(method="trades", model={"name": "linear"}) == mine
    assert used(method="trades", data={"name": "stripes"}) == data
    assert used(method="halved", data={"name": "stripes"}) == data | mine
    guided = {"name": "trades", "with": {"lbgat": {"model": "linear"}}}
    assert used(method=guided) == mine, "a network beside the student counts"


def test_every_registry_of_training_can_be_added_to():
    for module in pkgutil.walk_packages(training.__path__, "training."):
        import_module(module.name)
    found = {
        id(thing)
        for name, module in list(sys.modules.items())
        if name.startswith("training")
        for thing in vars(module).values()
        if isinstance(thing, Registry)
    }
    assert found == {id(registry) for registry in extensions.registries()}
    assert id(MODIFIERS) in found
