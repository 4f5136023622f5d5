"""Settings, one per line. A command-line flag of the same name overrides a setting for one run (`--batch_size 16`).

    python train_optimized.py --mode finetune --pretrained_ckpt CKPT --data_dir DIR

The comment behind each setting is its text in `python train_optimized.py COMMAND --help`. None means "not set".
"""

# --- Data -------------------------------------------------------------------------------------------------------------
data_dir = None  # data folder: patient_ehr/, the folder that contains patient_ehr/, or a compiled cohort
params_map_path = None  # stats.csv (mean, std of variables) or a compiled cohort; None: beside or in patient_ehr/
label_path = None  # oc.csv (labels of the stays); None: the file beside or in patient_ehr/
embeddings_path = None  # cached.csv or a compiled cohort; None: beside or in patient_ehr/, else generated from names
label_name = None  # column of oc.csv to predict, with values 0 and 1; None: in_hospital_mortality or the cohort's label
task = "binary"  # fine-tuning: binary, multilabel, multiclass or regression; label_name then lists columns: a,b,c
skip_bad = False  # true: leave out faulty files and list them in skipped.csv; false: stop at the first one
max_sets = None  # number of sets: use only the last max_sets sets of each stay; None: use all sets
value_transform = None  # new model: z_score, quantiles (positions among training values), normal_scores; None: z_score
value_clip = 10.0  # standard deviations: larger z-scores are set to this; None: no limit; a checkpoint keeps its own
min_count = 20  # training values: rarer variables get the value 1; unchanged, it is at most 1 in 50 training stays
batch_size = 8  # stays per batch; fine-tuning needs at least 4, because smaller batches often have no positive stay
max_events_per_batch = 65536  # maximum number of events per batch, limits memory; about 150 typical ICU stays
num_workers = 0  # DataLoader worker processes; 0 is usually fastest, because batches are read from memory-mapped arrays

# --- Backbone of a new model (a checkpoint has its own sizes; these fill in only what it does not state) --------------
architecture = "seqsetvae"  # seqsetvae or variable_summaries; the latter brings its own values of settings left as is
preset = "full"  # full: the sizes below; small: width 64 and 2 history layers (for CPUs); light: small, and levels 0
reduced_dim = 256  # width to which variable embeddings are projected; None: no projection
latent_dim = 256  # width of each set's latent Gaussian and of the history states
levels = 2  # number of set-attention blocks in the set encoder; 0: a set is the mean of its events
heads = 2  # attention heads in the set encoder
m = 16  # inducing points per set-attention block
ff_dim = 512  # width of the feed-forward layers in the history encoder
transformer_heads = 8  # attention heads in the history encoder
transformer_layers = 4  # layers in the history encoder
transformer_dropout = 0.1  # dropout probability in the history encoder

# --- Classification head ----------------------------------------------------------------------------------------------
head_pooling = "mean"  # pooling of the history states: last, mean or last_mean (both); see docs/experiments.md
head_hidden = 128  # units in the hidden layer of the two-layer head
head_dropout = 0.1  # dropout probability between the two layers of the head
head_members = 1  # 1: the two-layer head; more: an ensemble of so many heads that share weights (BatchEnsemble)

# --- Loss (fine-tuning) -----------------------------------------------------------------------------------------------
loss = "cross_entropy"  # loss function: cross_entropy or focal
class_weight = "none"  # cross_entropy: weight of positives: none (1), balanced (negatives/positives) or a number
label_smoothing = 0.0  # cross_entropy: fraction of each target that is spread evenly over both classes
focal_gamma = 2.0  # focal: exponent gamma, larger values reduce the weight of easy examples (Lin et al., 2017)
focal_alpha = None  # focal: weight alpha of the positive class, 1 - alpha of the negative; None: weight 1 for both

# --- Boosted trees beside the network (fine-tuning; needs lightgbm and architecture = "variable_summaries") -----------
tree_models = 0  # number of boosted tree models (seeds) whose mean log-odds is averaged with that of the network
average = "fixed"  # fixed (weights 0.3, 0.7), folds (weights chosen out of fold; a linear model too), network or trees

# --- Optimization (AdamW) ---------------------------------------------------------------------------------------------
cls_head_lr = 3e-4  # fine-tuning: learning rate of the head, higher than the backbone's because the head is new
lr = 5e-5  # fine-tuning: learning rate of the unfrozen backbone, lower than cls_head_lr to keep what was pretrained
tuning = "two_stage"  # two_stage (head alone, then everything), probe, full, last_layers, layer_decay or lora
tuned_layers = 1  # tuning last_layers: number of layers, from the output, that train after unfreezing
layer_lr_factor = 0.75  # tuning layer_decay: learning rate of a layer relative to that of the layer above it
lora_rank = 8  # tuning lora: rank of the matrices that are added to the backbone's
lora_alpha = 16.0  # tuning lora: the added matrices are scaled by lora_alpha / lora_rank
lora_lr = 5e-4  # tuning lora: learning rate of the added matrices, higher than lr because they start at zero
weight_decay = 0.01  # weight decay of weight matrices; biases and norms have none
warmup_steps = 100  # optimizer steps of linear learning-rate warm-up after unfreezing or in pretraining; max. one epoch
gradient_clip_val = 1.0  # maximum gradient norm
gradient_accumulation_steps = 1  # batches per optimizer step; the gradient is that of one large batch of their stays

# --- Pretraining ------------------------------------------------------------------------------------------------------
objective = "reconstruction"  # pretraining: reconstruction of each set (seqsetvae) or forecasting (variable_summaries)
pretrain_lr = 1e-3  # pretraining: peak learning rate, decays to min_lr along a half cosine over max_epochs
max_beta = 0.1  # pretraining: weight of the KL term after its warm-up
beta_warmup_steps = 5000  # pretraining: optimizer steps in which the KL weight rises linearly from 0 to max_beta
free_bits = 0.1  # pretraining: KL per latent dimension, in nats, that is not penalized; prevents posterior collapse
forecast_hours = 6.0  # forecasting: length of the next period that is forecast, in hours, beside all that follows

# --- Schedule (patience counts validations, one at the end of each epoch) ---------------------------------------------
max_epochs = 20  # maximum number of epochs, both fine-tuning stages together
unfreeze_after = 1  # epochs of stage 1 (frozen backbone); 0: unfrozen from the start, None: always frozen
lr_schedule = "plateau"  # fine-tuning: plateau (see lr_factor) or cosine (half a cosine to min_lr in each stage)
keep = "best"  # fine-tuning: best.ckpt holds the epoch with the best val_auc, or with last the last one (no selection)
ema_decay = None  # fine-tuning: weights are exponential moving averages with this decay per step; None: no averages
lr_factor = 0.8  # fine-tuning: factor applied to the learning rates when val_auc stops improving
lr_patience = 4  # fine-tuning: validations without a higher val_auc before the learning rates are reduced
min_lr = 1e-6  # lower limit of all learning rates
es_patience = 8  # early stopping: validations without a better val_auc (per fine-tuning stage) or pretraining val_loss
save_every_minutes = 10.0  # minutes between saves inside an epoch, for --resume; the end of an epoch is always saved

# --- Run --------------------------------------------------------------------------------------------------------------
loggers = None  # trackers besides metrics.csv and TensorBoard: wandb, mlflow or both; no stay ids or paths are sent
output_root_dir = "outputs"  # folder for run folders, compiled data folders and cached features
seed = 42  # random seed for initial weights, batch order and dropout
accelerator = "auto"  # device: auto (GPU if available), cpu or gpu
devices = 1  # processes on each node, one for each GPU; batch_size is that of each; 1 for crossvalidate
num_nodes = 1  # number of computers; torchrun or srun starts the command on each of them (docs/clusters.md)
strategy = "auto"  # Lightning strategy: auto or ddp; no difference with one device; what is fine-tuned is tuning
precision = "32-true"  # 32-true, bf16-mixed, 16-mixed or 64-true; head, loss and metrics use at least float32
deterministic = False  # true: deterministic GPU kernels only (slower); CPU runs are reproducible without it
compile_model = False  # true: torch.compile the dense layers; the first steps are slow, long GPU runs become faster
