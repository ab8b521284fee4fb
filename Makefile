PYTHON ?= python
export OMP_WAIT_POLICY ?= PASSIVE

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

check: format-check lint types test tables-check  ## what CI runs

format:          ## rewrite the code in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

format-check:
	$(PYTHON) -m ruff format --check .

lint:            ## find mistakes without running the code
	$(PYTHON) -m ruff check .

types:           ## check annotations
	$(PYTHON) -m mypy

test:            ## default tests: no network, no GPU
	$(PYTHON) -m pytest -n auto --dist worksteal

nightly:         ## the exhaustive forms of the tests
	$(PYTHON) -m pytest -n auto --dist worksteal -m nightly

slow:            ## tests at full size and long runs
	$(PYTHON) -m pytest -m slow

tables:          ## rebuild the tables, figures and the demo's report in results/ from the committed records
	PYTHONPATH=. $(PYTHON) results/make_tables.py

demo-records:    ## make the records of results/demo anew (synthetic speech, minutes), and all tables
	folder=$$(mktemp -d) && python=$$(realpath -s $$(command -v $(PYTHON))) \
	  && (cd $$folder && PYTHONPATH=$(CURDIR) $$python -m probe --quiet demo --to demo >/dev/null) \
	  && rm -rf results/demo && cp -r $$folder/demo/results results/demo && rm -rf $$folder
	$(MAKE) tables

tables-check:    ## are the committed tables those of the committed records?
	$(PYTHON) -m pytest -q tests/test_results.py

golden:          ## rewrite the golden files of the tests
	GOLDEN=write $(PYTHON) -m pytest -q tests/reporting/test_tables.py tests/reporting/test_grid.py tests/reporting/test_robustness.py tests/evaluation/test_presets.py

site:            ## build the documentation site in site/; needs the extra [site]
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PYTHON) -m mkdocs build

wheel-demo:      ## build the wheel and run the demo from it outside the checkout
	rm -rf build dist
	$(PYTHON) -m build --wheel --outdir dist .
	folder=$$(mktemp -d) && $(PYTHON) -m pip install --quiet --no-deps --target $$folder/site dist/*.whl \
	  && cd $$folder && PYTHONPATH=$$folder/site $(abspath $(PYTHON)) -m probe demo --to demo \
	  && ls demo/table.md demo/curves.png && rm -rf $$folder

.PHONY: help check format format-check lint types test nightly slow tables tables-check demo-records golden site wheel-demo
