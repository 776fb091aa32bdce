"""`tagmoe data refine` against a server: the whole loop, propose, try, adopt or refuse; faults and bad input."""

from __future__ import annotations

import json

import pytest
from support.annotated_stores import annotate, stored
from support.fault_server import fault_server
from support.made_pictures import sound
from support.stored_content import content_hash

from tagmoe.annotation.answer import Annotation, annotators, read_annotations
from tagmoe.annotation.rules.rule_set import load_rules, packaged_rules
from tagmoe.cli import run
from tagmoe.data.store.store import Store
from tagmoe.tags import index

GOLD = ("global editing", "illumination editing", "structure preservation")
RIGHT = {"scope": "global editing", "types": ["illumination editing"], "preservation": ["structure preservation"]}
LESS = {**RIGHT, "preservation": []}
WRONG = {**LESS, "scope": "local editing"}
WORDS = {"structure preservation": "Better words."}
SCRIPT = [
    {"contains": "Rewrite the guidance", "content": WORDS},
    {"contains": "Better words", "content": RIGHT},
    {"contains": "Worse words", "content": WRONG},
    {"content": LESS},
]
ROWS = 8


@pytest.fixture(scope="module")
def server():
    with fault_server(rules=SCRIPT) as started:
        yield started


@pytest.fixture
def store(tmp_path):
    tags = tuple(sorted(map(index, GOLD)))
    made = stored(tmp_path / "s", [sound(n, tags=None) for n in range(ROWS)])
    return annotate(made, people=lambda record: Annotation("ok", tags=tags))


@pytest.fixture
def refine(server, store, tmp_path, capsys):
    """Call the command; returns exit code, stdout, stderr."""

    def call(*arguments, endpoint=True):
        server.set(faults={}, rules=SCRIPT) if endpoint is True else None
        server.clear()
        usual = {"--gold": "people"} | ({"--endpoint": server.url, "--model": "tiny-vlm"} if endpoint else {})
        others = [word for name, value in usual.items() if name not in arguments for word in (name, value)]
        given = ("data", "refine", store.uri, *others, *arguments)
        capsys.readouterr()
        code = run([str(item) for item in given])
        return (code, *capsys.readouterr())

    return call


def rules_file(path, version, words):
    rules = packaged_rules().with_guidance({"structure preservation": words}, version)
    path.write_text(rules.to_yaml())
    return path


@pytest.mark.slow
def test_better_rules_are_adopted_and_worse_ones_refused(refine, server, store, tmp_path):
    one, two = (
        rules_file(tmp_path / f"{name}.yaml", name, words) for name, words in (("1", "Old."), ("2", "Better words."))
    )
    code, out, err = refine("--rules", two, "--against", one, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert (data["adopted"], data["asked"], data["gold_rows"]) == (True, ROWS, ROWS)
    assert data["micro_f1"] == {"before": pytest.approx(0.8), "after": 1}
    assert server.counts()["requests"] == 2 * ROWS
    assert all(given.rules_version == "2" for given in read_annotations(Store.open(store.uri), "vlm"))
    # nobody had given tags, so these are what training reads
    assert [given.tags for given in read_annotations(Store.open(store.uri), "tags")] == ROWS * [
        tuple(sorted(map(index, GOLD)))
    ]

    three = rules_file(tmp_path / "3.yaml", "3", "Worse words.")
    before = content_hash(Store.open(store.uri))
    code, out, err = refine("--rules", three, "--against", two)
    assert code == 1
    assert err.strip().startswith("error: The rules '3' are not adopted: gold F1 of all tags falls from 1.000 to 0.")
    assert len(err.strip().splitlines()) == 1
    assert "refused" in out
    assert server.counts()["requests"] == ROWS
    assert content_hash(Store.open(store.uri)) == before
    decisions = sorted((tmp_path / "3-decisions").glob("decision-*.json"))
    assert json.loads(decisions[0].read_text())["decision"] == "refused"
    # the answers of a trial are kept
    assert refine("--rules", three, "--against", two)[0] == 1
    assert server.counts()["requests"] == 0


def test_the_model_proposes_rules_that_a_person_reads(refine, server, store, tmp_path):
    new = tmp_path / "new.yaml"
    code, out, err = refine("--rules", new, "--propose", "--tags", 1)
    assert code == 0, err
    assert "structure preservation" in out
    assert "read and correct" in err
    proposed = load_rules(new)
    assert proposed.version == "2"
    assert proposed.guidance["structure preservation"] == "Better words."
    assert {**proposed.guidance, **WORDS} == {**packaged_rules().guidance, **WORDS}
    assert annotators(store) == ["people"]
    assert server.counts()["requests"] == ROWS + 1
    code, out, err = refine("--rules", new, "--propose")
    assert code == 2
    assert "exists" in err
    code, out, err = refine("--rules", new)
    assert code == 0, err
    # the old answers are those of the proposal
    assert server.counts()["requests"] == ROWS


def test_a_proposal_that_does_not_fit_writes_nothing(refine, server, tmp_path):
    server.set(rules=[{"contains": "Rewrite the guidance", "content": {"other": "words"}}, {"content": LESS}])
    code, _, err = refine("--rules", tmp_path / "new.yaml", "--propose", "--tags", 1, endpoint="as set")
    assert code == 1
    assert "proposed nothing that can be used (invalid" in err
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.slow
def test_faults_of_the_server_change_no_decision(refine, server, tmp_path):
    two = rules_file(tmp_path / "2.yaml", "2", "Better words.")
    server.set(faults={"429": 0.15, "500": 0.15, "reset": 0.1}, rules=SCRIPT)
    code, out, err = refine("--rules", two, "--json", endpoint="as set")
    assert code == 0, err
    assert json.loads(out)["micro_f1"]["after"] == 1
    counts = server.counts()
    assert counts["requests"] > 2 * ROWS
    assert counts["repeats_after_success"] == 0


@pytest.mark.slow
def test_rows_that_the_server_will_not_answer_count_as_untagged(refine, server, tmp_path):
    two = rules_file(tmp_path / "2.yaml", "2", "Better words.")
    server.set(rules=[{**SCRIPT[1], "fault": "refusal"}, *SCRIPT[2:]])
    code, _, err = refine("--rules", two, endpoint="as set")
    assert code == 1
    assert "falls from 0.800 to 0.000" in err
    decision = json.loads(next((tmp_path / "2-decisions").glob("decision-*.json")).read_text())
    assert decision["new"]["statuses"] == {"refused": ROWS}


@pytest.mark.slow
def test_the_key_stands_nowhere(refine, server, store, tmp_path, monkeypatch):
    two = rules_file(tmp_path / "2.yaml", "2", "Better words.")
    server.set(key="k3y-of-mine", faults={}, rules=SCRIPT)
    try:
        code, _, err = refine("--rules", two, endpoint="as set")
        assert code == 2, err
        assert "TAGMOE_VLM_KEY" in err
        monkeypatch.setenv("TAGMOE_VLM_KEY", "k3y-of-mine")
        code, out, err = refine("--rules", two, endpoint="as set")
        assert code == 0, err
    finally:
        server.set(key=None)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not any(b"k3y-of-mine" in text for text in (*written, out.encode(), err.encode()))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--rules", "none.yaml"), 2, ("none.yaml", "cannot be read")),
        (("--rules", "same.yaml"), 2, ("Both rule sets are the same",)),
        (("--rules", "unraised.yaml"), 2, ("have the version '1'", "raise the version")),
        (("--rules", "bad.yaml"), 2, ("sparkle",)),
        (("--rules", "2.yaml", "--gold", "nobody"), 2, ("no annotator 'nobody'",)),
        (("--rules", "2.yaml", "--annotator", "people"), 2, ("both 'people'",)),
        (("--rules", "2.yaml", "--annotator", "No Name"), 2, ("No Name",)),
        (("--rules", "2.yaml", "--model", "other"), 2, ("other",)),
    ],
)
def test_bad_input_is_one_sentence(refine, tmp_path, monkeypatch, arguments, code, parts):
    monkeypatch.chdir(tmp_path)
    rules_file(tmp_path / "2.yaml", "2", "Better words.")
    (tmp_path / "same.yaml").write_text(packaged_rules().to_yaml())
    rules_file(tmp_path / "unraised.yaml", "1", "Better words.")
    (tmp_path / "bad.yaml").write_text("version: '2'\ntiers: {type: {tags: {sparkle: much}}}\n")
    done, out, err = refine(*arguments)
    assert (done, out) == (code, ""), err
    assert len(err.strip().splitlines()) == 1
    assert all(part in err for part in parts), err


@pytest.mark.slow
def test_nobody_to_ask(refine, tmp_path):
    two = rules_file(tmp_path / "2.yaml", "2", "Better words.")
    code, _, err = refine("--rules", two, endpoint=False)
    assert code == 2
    assert "--endpoint" in err


@pytest.mark.slow
def test_an_account_without_credit_decides_nothing_and_its_rows_are_asked_again(refine, server, tmp_path):
    two = rules_file(tmp_path / "2.yaml", "2", "Better words.")
    body = {"error": {"message": "no credit"}}
    server.set(faults={}, rules=[{"after": 3, "status": 402, "body": body}, *SCRIPT])
    code, out, err = refine("--rules", two, endpoint="as set")
    assert (code, out) == (1, "")
    assert "no credit" in err
    assert len(err.strip().splitlines()) == 1
    code, out, err = refine("--rules", two, "--json")
    assert code == 0, err
    assert server.counts()["requests"] == 2 * ROWS - 3
