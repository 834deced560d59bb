# Every target sets up what it needs on a fresh machine: Python 3.11 or newer is all that has to be there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: test lint demo clean

test: $(VENV)/.installed
	$(RUN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy

demo: $(VENV)/.installed
	$(RUN)/gapmllm demo --out demo-out --overwrite

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[captions,lora,track,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo-out
