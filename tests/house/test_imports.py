"""What an import and a listing cost: nothing but themselves."""

import subprocess
import sys

HEAVY = ("torch", "scipy", "cv2", "pytorch_lightning", "matplotlib")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_importing_oculi_loads_nothing_heavy():
    assert loaded_by("import oculi") == set()


def test_listing_and_showing_need_no_torch():
    assert loaded_by("from oculi.cli import main\nmain(['list'])") == set()
    assert loaded_by("from oculi.cli import main\nmain(['show', 'resnet'])") == set()
    assert loaded_by("from oculi.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass") == set()
