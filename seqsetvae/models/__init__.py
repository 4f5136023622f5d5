"""The architectures, by name. Importing this imports no torch.

An architecture is a folder here whose __init__.py has the names below; a test registers one from its own file. Legend:
N stays, P pooled width, S sets, D width of a state, V variables, I embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from seqsetvae.models import seqsetvae, variable_summaries


class Architecture(Protocol):
    """What an architecture must offer."""

    Sizes: type[Any]  # its settings: a frozen dataclass with input_dim (I) and a `setting` for each flag
    PRESETS: dict[str, dict[str, Any]]  # sizes by preset; {"full": {}} where there is one preset alone
    SKIPPED: tuple[str, ...]  # regular expressions of whole names of weights that fine-tuning does not load, on purpose
    INERT: frozenset[str]  # names of weights that a checkpoint may lack, because they have no effect
    OFFERS: frozenset[str]  # what else its backbone has, see `build`: states, table, layers
    NOT_IN_SHAPES: tuple[str, ...]  # sizes that the shapes of weights do not show
    VALUE_TRANSFORM: str  # how a new model reads the values of a cohort, a name in batches.transform.VALUE_TRANSFORMS

    def problems(self, sizes: dict[str, Any]) -> list[str]:
        """What is wrong with the sizes of a new model together; each line begins with the name of a setting."""
        ...

    def build(self, sizes: Any) -> Any:
        """A backbone with random weights: a torch module with the attributes `architecture` (its name) and `sizes`
        (with as_dict()) and the methods

        - pooled(batch, embeddings [V, I], pooling) -> [N, P], and pooled_width(pooling) -> P;
        - compile_dense_parts(): torch.compile what is worth it, in place;
        - states(batch, embeddings) -> [S, D], if it OFFERS states: the state of a set depends on no later set;
        - table(batch, embeddings) -> [N, columns] in numpy, if it OFFERS table: what boosted trees can be grown on;
        - layers() -> {name: modules}, if it OFFERS layers: from input to output, every parameter in one of them.

        It may also have

        - fit(cohort, batches), called once for a new model with batches of training stays;
        - n_inputs, the number of inputs that `fit` found; 0 is an error;
        - start_small(n_stays, batches, embeddings), called once for a new model with the labelled training stays, and
          after_step(lr), called after each optimizer step that trains it;
        - variable_table(cohort), which takes the place of the embeddings in all of these;
        - summarizer(variables), which returns what is to be computed of a batch on the host: batch -> batch.prepared,
          and kept_summarizer(variables), the same for stays that are read in every epoch;
        - keep_pretrained(weights), called once its weights were loaded from a checkpoint, with all weights of the file,
          so that `table` has what pretraining learned, and drop_pretrained(), called where nothing reads the table;
        - padded_history(), a module of plain operations, (set means [N, T, D], minutes [N, T]) -> states [N, T, D], to
          be written as ONNX.
        """
        ...

    def canonical_name(self, key: str) -> str:
        """The name in the backbone's state dict of a weight of any checkpoint layout."""
        ...

    def explain(self, stored: Mapping[str, Sequence[int]]) -> str:
        """What a file with weights of these names and shapes is, where it is not a whole, trained model; else empty."""
        ...

    def random_in_file(self, stored: Mapping[str, Sequence[int]]) -> list[str]:
        """Weights that the code which wrote such a file left random; a load report says so."""
        ...

    def infer_sizes(
        self, shapes: Mapping[str, Sequence[int]], stated: Mapping[str, Any], fallback: Mapping[str, Any], file: str
    ) -> Any:
        """The Sizes of a checkpoint from the shapes of its weights, its hyper_parameters and the settings."""
        ...


ARCHITECTURES: dict[str, Architecture] = {"seqsetvae": seqsetvae, "variable_summaries": variable_summaries}
