# Each target works as the first command on a fresh machine: it makes its own .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete

.PHONY: demo test lint types reproduce oracles clean

demo: $(STAMP)
	$(BIN)/oculi demo

test: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal --jaxtyping-packages=oculi,typecheck.checked

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

reproduce: $(STAMP)
	$(BIN)/oculi reproduce --all

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,oracles]"
	# these ask for CUDA builds of torch: without their dependencies, off the path, for the parity tests alone
	$(BIN)/python -m pip install -q --no-deps --target .venv/oracles torchvision==0.28.0 timm==1.0.31 torchattacks==3.3.0 easyfsl==1.5.0 faster-coco-eval==1.8.0 segmentation-models-pytorch==0.6.0 supervision==0.31.2 pydeprecate==0.14.0 defusedxml==0.7.1 kornia==0.9.0 kornia_rs==0.2.0 pycolmap==4.2.1 filterpy==1.4.5 minisom==2.3.6
	touch $(STAMP)

clean:
	rm -rf .venv runs dist build
