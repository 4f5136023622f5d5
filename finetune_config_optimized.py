"""Settings. One line is one setting; a flag of the same name overrides it for one run (`--batch_size 16`).

    python train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR

`python train_optimized.py --help` lists every flag with the text that stands behind it here. None means "not set".
"""

# --- Data -------------------------------------------------------------------------------------------------------------
data_dir = None  # folder: patient_ehr/ (or the folder above it) of the old layout, or a compiled cohort
params_map_path = None  # stats.csv of the old layout; None: the one beside patient_ehr/
label_path = None  # oc.csv of the old layout; None: the one beside patient_ehr/
embeddings_path = None  # cached.csv of the old layout; None: the one beside patient_ehr/, else made from the names
label_name = None  # column of oc.csv to predict, 0 or 1; None: in_hospital_mortality, or what a compiled cohort holds
skip_bad = False  # leave unreadable stays out and list them in skipped.csv, instead of stopping at the first
max_sets = None  # sets: keep only the last so many of each stay; None keeps all, as the old code did
batch_size = 8  # stays per step; 4 or more, since a rare outcome is missing from most smaller batches
max_events_per_batch = 65536  # events: bounds a batch's memory when stays are long; about 150 ordinary ICU stays
num_workers = 0  # loader processes: batches are index arithmetic on memory-mapped arrays, so 0 is usually fastest

# --- Backbone: for pretraining, and where a checkpoint does not say it (shapes of weights never show heads) -----------
preset = "full"  # full: the sizes below; small: a quarter of the width (see SMALL in seqsetvae/settings.py), for CPUs
reduced_dim = 256  # width of an event vector; None: that of the variable embeddings
latent_dim = 256  # width of a set's Gaussian and of the history
levels = 2  # set-attention blocks
heads = 2  # attention heads of the set encoder
m = 16  # inducing points of each block
ff_dim = 512  # width of the history encoder's feed-forward part
transformer_heads = 8  # attention heads of the history encoder
transformer_layers = 4  # layers of the history encoder
transformer_dropout = 0.1  # probability, in training

# --- Head -------------------------------------------------------------------------------------------------------------
head_pooling = "mean"  # history to one vector: last, mean, last_mean; best on validation, docs/experiments.md
head_hidden = 128  # units of the middle layer; the old head had four layers and overfitted
head_dropout = 0.1  # probability, between the two layers

# --- Loss -------------------------------------------------------------------------------------------------------------
loss = "cross_entropy"  # cross_entropy or focal
class_weight = "none"  # weight of positives in cross_entropy: none (1), balanced (negatives / positives) or a number
label_smoothing = 0.0  # share of each target moved to the uniform distribution, cross_entropy only
focal_gamma = 2.0  # focal loss: how fast sure predictions lose weight (Lin et al., 2017)
focal_alpha = None  # focal loss: weight of positives, 1 - alpha for negatives; None weighs both by 1

# --- Optimization -----------------------------------------------------------------------------------------------------
cls_head_lr = 3e-4  # learning rate of the head: new weights, so above the backbone's
lr = 5e-5  # learning rate of the unfrozen backbone, well below the head's; the later of the old config's two values
weight_decay = 0.01  # AdamW, on weight matrices only
warmup_steps = 100  # optimizer steps over which rates rise after unfreezing, or in pretraining; at most one epoch
gradient_clip_val = 1.0  # largest gradient norm
gradient_accumulation_steps = 1  # batches per optimizer step, with the gradient of one large batch of all their stays

# --- Pretraining only -------------------------------------------------------------------------------------------------
pretrain_lr = 1e-3  # highest learning rate; it falls to min_lr along half a cosine over max_epochs
max_beta = 0.1  # weight of the KL term once it has risen
beta_warmup_steps = 5000  # optimizer steps over which it rises from 0, so that reconstruction is learned first
free_bits = 0.1  # nats of KL per dimension that cost nothing, against posterior collapse

# --- Schedule: every patience counts validations, one at the end of each epoch ----------------------------------------
max_epochs = 20  # epochs of both stages together
unfreeze_after = 1  # epochs with a frozen backbone (stage 1); 0: none, None: all; one is enough, docs/experiments.md
lr_factor = 0.8  # fine-tuning: learning rates are multiplied by this when val_auc stalls
lr_patience = 4  # fine-tuning: validations without a better val_auc before that
min_lr = 1e-6  # learning rates do not fall below this
es_patience = 8  # validations without a better val_auc (val_loss) before a stage ends; fine-tuning: > lr_patience + 1

# --- Run --------------------------------------------------------------------------------------------------------------
output_root_dir = "outputs"  # folder for runs and for compiled copies of old data folders
seed = 42  # random seed of weights, shuffles and dropout
accelerator = "auto"  # auto, cpu or gpu
devices = 1  # processes: one; several come with multi-process training
strategy = "auto"  # auto or ddp; with one process both do the same
precision = "32-true"  # 32-true, bf16-mixed, 16-mixed or 64-true; head, loss and metrics are float32 at least
deterministic = False  # only deterministic kernels (slower on a GPU; a CPU run repeats without it)
compile_model = False  # torch.compile the dense parts: slow first steps, faster long runs on a GPU
