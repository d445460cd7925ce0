"""What `safe-rl compare` compares: each study is a table of variants, a method and the flags that make it another."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from safe_rl.errors import UserError
from safe_rl.methods import METHODS

TABLE, CURVES, REPORT, LOCK = "table.md", "curves.svg", "report.html", ".lock"
"""Files within the folder of a comparison."""
TAKEN = frozenset({"data", "pretrained", TABLE, CURVES, REPORT, LOCK})
"""Names there that no row can have."""
LONGEST_LABEL = 100
"""Letters; a folder is named after it."""


@dataclass(frozen=True)
class Variant:
    """One row of a comparison."""

    label: str
    """As table and plots call it."""
    method: str
    flags: tuple[str, ...] = ()
    """Of ``safe-rl train``, beyond the preset."""
    data_share: float = 1.0
    """Share of the comparison's offline transitions that it gets."""

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-")


def _recovery_rl(label: str, flags: str, data_share: float = 1.0) -> Variant:
    return Variant(label, "recovery-rl", tuple(shlex.split(flags)), data_share)


def _unconstrained(label: str, flags: str) -> Variant:
    return Variant(label, "unconstrained", tuple(shlex.split(flags)))


def _model_based(label: str, search: str) -> Variant:
    return _recovery_rl(label, f"--recovery.kind model-based {search}")


def _search(plans: int, particles: int, iterations: int, precision: str = "float32") -> Variant:
    """Model-based recovery by a search of that size; the paper's is 400, 20, 5."""
    return _model_based(
        f"{plans} plans x {particles}, iterations: {iterations}" + (f", {precision}" if precision != "float32" else ""),
        f"--planner.population {plans} --planner.elites {plans // 10} --planner.particles {particles} "
        f"--planner.iterations {iterations} --planner.precision {precision}",
    )


TITLES = {
    "recovery-rl": "Recovery RL",
    "lagrangian": "LR",
    "rspo": "RSPO",
    "sqrl": "SQRL",
    "rcpo": "RCPO",
    "reward-penalty": "RP",
    "unconstrained": "Unconstrained",
}

STUDIES: dict[str, tuple[Variant, ...]] = {
    # The paper's comparison.
    "methods": tuple(Variant(TITLES[method], method) for method in TITLES),
    # The hyperparameters of the paper, ours, and SAC on online transitions alone.
    "presets": (
        _recovery_rl("tuned", "--preset tuned"),
        _recovery_rl("paper", "--preset paper"),
        _recovery_rl("paper, composite backup", "--preset paper --risk.backup composite"),
        _unconstrained("unconstrained", "--preset tuned --no-demonstrations --task-pretrain-steps 0"),
        _unconstrained("unconstrained-paper", "--preset paper"),
    ),
    # Who rescues.
    "recovery": (
        _recovery_rl("model-free", "--recovery.kind model-free"),
        _recovery_rl("Q-sampling", "--recovery.kind q-sampling"),
        # A quarter of the plans and of the particles: the whole search takes more than half a second a decision.
        _model_based("model-based", "--planner.population 100 --planner.elites 10 --planner.particles 5"),
    ),
    # What smaller and faster searches of the planner cost in safety, step by step.
    "planner": (
        _search(400, 20, 5),
        _search(400, 20, 5, "bfloat16"),
        _search(400, 10, 5),
        _search(400, 5, 5),
        _search(200, 5, 5),
        _search(100, 5, 5),
        _search(100, 5, 5, "bfloat16"),
        _search(50, 5, 5),
        _search(100, 5, 3),
        _search(100, 5, 2),
        _search(100, 5, 1),
        _model_based("50 ms for a plan", "--planner.budget-ms 50"),
        _model_based("20 ms for a plan", "--planner.budget-ms 20"),
    ),
    # The paper's ablations.
    "ablations": (
        _recovery_rl("Recovery RL", ""),
        _recovery_rl("no offline pretraining", "--risk.pretrain-steps 0"),
        _recovery_rl("no online updates", "--risk.no-update-online"),
        _recovery_rl("no relabelling", "--no-relabel-actions"),
        _recovery_rl("proposed and executed", "--learn-from-both"),
        _recovery_rl("task-policy backup", "--risk.backup task"),
        _recovery_rl("half the data", "", data_share=0.5),
        _recovery_rl("a tenth of the data", "", data_share=0.1),
    ),
    # How much hangs on the two numbers that a user has to choose.
    "sensitivity": tuple(
        _recovery_rl(f"{name} {value}", f"--risk.{name.replace('_', '-')} {value}")
        for name, values in (
            ("eps_risk", (0.05, 0.1, 0.2, 0.3, 0.4)),
            ("gamma_risk", (0.5, 0.65, 0.75, 0.85, 0.95)),
        )
        for value in values
    ),
    # Beyond the paper: what a risk critic is taught, how an ensemble is read, how fast it follows; what the recovery
    # policy descends, and what it tries where nothing seems to help.
    "critics": (
        _recovery_rl("tuned", ""),
        _recovery_rl("squared error", "--risk.loss mse"),
        _recovery_rl("8 critics, the largest", "--risk.num-critics 8"),
        _recovery_rl("8 critics, quantile 0.75", "--risk.num-critics 8 --risk.quantile 0.75"),
        _recovery_rl("conservative pretraining", "--risk.conservatism 0.5"),
        _recovery_rl("faster targets", "--risk.tau 0.02"),
        _recovery_rl("faster critics", "--risk.learning-rate 1e-3"),
        _recovery_rl("both faster", "--risk.tau 0.02 --risk.learning-rate 1e-3"),
        _recovery_rl("recovery by the logit", "--recovery.objective logit"),
        _recovery_rl("8 critics, by the logit", "--risk.num-critics 8 --recovery.objective logit"),
        _recovery_rl("conservative, by the logit", "--risk.conservatism 0.5 --recovery.objective logit"),
        _recovery_rl("random where lost", "--recovery.explore-above 0.8"),
        _recovery_rl("8 critics, random where lost", "--risk.num-critics 8 --recovery.explore-above 0.8"),
        _recovery_rl(
            "8 critics, by the logit, random where lost",
            "--risk.num-critics 8 --recovery.objective logit --recovery.explore-above 0.8",
        ),
    ),
    # The tuned settings with one thing undone or changed.
    "tuning": (
        _recovery_rl("tuned", ""),
        _recovery_rl("risk: backup with the task policy", "--risk.backup task"),
        _recovery_rl("risk: squared error", "--risk.loss mse"),
        _recovery_rl("risk: 2 critics", "--risk.num-critics 2"),
        _recovery_rl("risk: batches as they come", "--risk.positive-fraction None"),
        _recovery_rl("risk: the fresh policy proposes in pretraining", "--risk.pretrain-proposal policy"),
        _recovery_rl("risk: the paper's target rate", "--risk.tau 0.0002"),
        _recovery_rl("risk: the paper's threshold", "--risk.eps-risk 0.2"),
        _recovery_rl("risk: no pretraining", "--risk.pretrain-steps 0"),
        _recovery_rl("risk: no online updates", "--risk.no-update-online"),
        _recovery_rl("switch: only where recovery is less risky", "--risk.recovery-must-help"),
        _recovery_rl("recovery: Q-sampling", "--recovery.kind q-sampling"),
        _recovery_rl("task: no offline transitions", "--no-demonstrations --task-pretrain-steps 0"),
        _recovery_rl("task: no pretraining", "--task-pretrain-steps 0"),
        _recovery_rl("task: a violation ends the value", "--violation-ends-value"),
        _recovery_rl("task: no relabelling", "--no-relabel-actions"),
        _recovery_rl("task: the paper's discount and target rate", "--sac.gamma 0.99 --sac.tau 0.005"),
        _recovery_rl("task: fixed entropy", "--sac.entropy fixed --sac.alpha 0.2"),
        _recovery_rl("task: step size 3e-4", "--sac.learning-rate 3e-4"),
        _recovery_rl(
            "networks of 256",
            "--sac.hidden-sizes 256 256 --risk.hidden-sizes 256 256 --recovery.hidden-sizes 256 256",
        ),
        _recovery_rl("bfloat16", "--precision bfloat16"),
    ),
}


def parse_variant(text: str) -> Variant:
    """Reads ``label=method --flag value ...``.

    Raises:
        UserError: It is written otherwise.
    """
    label, equals, rest = text.partition("=")
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UserError(f"--variants {text!r}: {error}") from error
    if not equals or not words or not label.strip():
        raise UserError(f"--variants {text!r} is no variant: write 'label=method --flag value ...'")
    label = " ".join(label.split())
    slug = Variant(label, "").slug
    if not slug.strip("."):
        raise UserError(f"--variants: a folder is named after {label!r}: give it a letter of a to z or a digit")
    if slug in TAKEN:
        raise UserError(f"--variants: {slug} in the output folder is something else: give {label!r} another label")
    if len(slug) > LONGEST_LABEL:
        raise UserError(f"--variants: {label[:20]!r}... has {len(label)} letters: give it a label of {LONGEST_LABEL}")
    return Variant(label, words[0], tuple(words[1:]))


def chosen_variants(study: str, methods: tuple[str, ...], variants: tuple[str, ...]) -> tuple[Variant, ...]:
    """The variants that the settings of a comparison ask for.

    Args:
        study: A name of ``STUDIES``.
        methods: Names of methods, or ``all``; they narrow the study ``methods``.
        variants: More of the user's own; alone where no method is named with them.

    Raises:
        UserError: A name is unknown, or two variants would share a folder.
    """
    own = tuple(parse_variant(text) for text in variants)
    if study != "methods":
        if methods:
            raise UserError(f"--methods goes with --study methods, not with {study}: leave one of them out")
        chosen = STUDIES[study]
    elif methods == ("all",) or not (methods or own):
        chosen = STUDIES["methods"]
    elif "all" in methods:
        raise UserError(f"--methods is {' '.join(methods)}: write all alone, or leave it out")
    else:
        unknown = [name for name in methods if name not in METHODS and ":" not in name]
        if unknown:
            raise UserError(f"no method {unknown[0]!r}: choose all, or from {', '.join(METHODS)}")
        chosen = tuple(Variant(TITLES.get(name, name), name) for name in methods)
    chosen += own
    slugs = [variant.slug for variant in chosen]
    for slug in slugs:
        if slugs.count(slug) > 1:
            raise UserError(f"two variants are called {slug!r}: give them different labels")
    return chosen
