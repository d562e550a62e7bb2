"""Names of other frameworks, and of earlier versions, with the names that replace them here.

The names come from Ultralytics, MMDetection and MMSegmentation, Detectron2, torchvision's reference
scripts, segmentation_models.pytorch, Lightning, timm and transformers. They are too different from
the names of this package for a search by similarity. Names are stored in lower case, with `_`
instead of `-`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

HEAD = "NAME"
"""Placeholder for the name of a head in a key."""
VALUE = "VALUE"
"""Placeholder for the value that the user wrote."""

Names = tuple[str, ...]

_SIZE = f"data.resize={{height: {VALUE}, width: {VALUE}}}"


def _share(target: str | Names, words: str) -> Iterator[tuple[str, Names]]:
    """Yield every word of `words` with the same target."""
    targets = (target,) if isinstance(target, str) else target
    return ((word, targets) for word in words.split())


COMMANDS: Mapping[str, Names] = dict(
    (
        *_share("finetune", "train fit fine_tune finetuning tune learn training main"),
        *_share("evaluate", "val validate test eval score metrics evaluation testing validation"),
        *_share(
            "predict",
            "infer inference detect segment classify demo run forward prediction image_demo track",
        ),
        *_share("explain", "gradcam grad_cam cam interpret heatmap saliency"),
        *_share("benchmark", "profile speed timing"),
        *_share("lr-find", "lr_find lr_finder find_lr"),
        *_share("heads", "models model decoders head"),
        *_share("backbones", "encoders backbone zoo"),
        *_share("recipes list", "recipe configs config cfg ls"),
        *_share("recipes keys", "options parameters params settings defaults hyperparameters"),
        *_share("data preview", "visualize browse browse_dataset browse_data view plot"),
        *_share("data check", "doctor checks verify"),
        *_share("data prepare", "download datasets dataset"),
        *_share("push", "upload publish share"),
        *_share("calibrate", "calibration temperature"),
        *_share("operating-point", "threshold thresholds"),
        *_share("finetune --resume", "resume restart"),
        *_share("--help", "help usage man"),
        *_share("--version", "version"),
    )
)
"""Command of another tool -> commands of this package, with an option where one is needed."""

SUBCOMMANDS: Mapping[str, Mapping[str, Names]] = {
    "data": dict(
        (
            *_share("check", "validate verify doctor lint"),
            *_share("preview", "visualize view show browse plot draw"),
            *_share("stats", "statistics info describe measure analyze"),
            *_share("convert", "import load"),
            *_share("prepare", "list ls download get"),
            *_share("split", "folds divide"),
        )
    ),
    "recipes": dict(
        (
            *_share("list", "ls all"),
            *_share("copy", "cp new create init edit"),
            *_share("show", "cat view print get"),
            *_share("validate", "check test verify"),
        )
    ),
}
"""Group -> command of another tool -> commands of the group."""

KEYS: Mapping[str, Names] = dict(
    (
        # Training loop.
        *_share(
            "training.epochs",
            "epoch max_epochs num_epochs n_epochs num_train_epochs total_epochs nepochs max_iter "
            "max_iters max_steps num_iterations",
        ),
        *_share(
            "training.batch_size",
            "batch bs batchsize ims_per_batch samples_per_gpu images_per_gpu batch_size_per_gpu "
            "train_batch_size per_device_train_batch_size",
        ),
        *_share(
            "evaluation.batch_size",
            "val_batch_size eval_batch_size test_batch_size per_device_eval_batch_size "
            "val_dataloader.batch_size test_dataloader.batch_size",
        ),
        *_share(
            "training.accumulation",
            "accumulate accumulate_grad_batches gradient_accumulation_steps accumulative_counts "
            "grad_accum grad_accum_steps",
        ),
        *_share("training.learning_rate", "lr lr0 base_lr init_lr initial_lr max_lr rate"),
        *_share(
            "training.backbone_lr_scale", "backbone_lr lr_backbone lr_mult encoder_lr lr_encoder"
        ),
        *_share("training.layer_decay", "layerwise_lr_decay layer_wise_lr_decay llrd lr_decay"),
        *_share("training.optimizer", "optim opt optimizer_name optimizer_type"),
        *_share("training.weight_decay", "wd l2 weight_decay_rate"),
        *_share(
            "training.schedule",
            "scheduler sched lr_schedule lr_scheduler lr_scheduler_name lr_scheduler_type "
            "lr_policy lr_config param_scheduler",
        ),
        *_share("training.schedule=cosine", "cos_lr cosine"),
        *_share("training.steps", "milestones lr_steps lr_milestones"),
        *_share("training.step_factor", "gamma lr_gamma"),
        *_share(
            "training.warmup=FRACTION",
            "warmup_epochs warmup_steps warmup_iters warmup_ratio lr_warmup_epochs warm_up",
        ),
        *_share(
            "training.clip_norm",
            "grad_clip clip_grad clip_grad_norm clip_gradients gradient_clip_val gradient_clip "
            "max_grad_norm max_norm",
        ),
        *_share("training.ema", "ema_decay model_ema model_ema_decay"),
        *_share("training.precision", "amp mixed_precision use_amp dtype solver.amp.enabled"),
        *_share("training.precision=fp16", "half fp16"),
        *_share("training.precision=bf16", "bf16"),
        *_share("training.seed", "random_seed random_state manual_seed"),
        *_share(
            "training.evaluate_every",
            "val_interval eval_interval eval_period eval_every val_every "
            "check_val_every_n_epoch evaluation_interval",
        ),
        *_share("training.patience", "early_stopping early_stop early_stopping_patience"),
        *_share(
            "training.checkpoint_minutes=MINUTES",
            "save_period save_interval save_every checkpoint_interval checkpoint_period save_steps",
        ),
        *_share("training.device", "gpu gpus gpu_ids cuda accelerator devices"),
        *_share("training.trackers", "logger loggers report_to vis_backends tracker"),
        *_share("training.trackers=[tensorboard, wandb]", "wandb use_wandb"),
        # Backbone and heads.
        *_share(
            "backbone.name",
            "arch architecture backbone encoder encoder_name backbone_name model_name variant",
        ),
        *_share(f"backbone.name=resnet{VALUE}", "depth"),
        *_share(("backbone.name", f"heads.{HEAD}.type"), "model"),
        *_share(
            "backbone.weights",
            "pretrained pretrained_weights pretrained_backbone encoder_weights weights_backbone "
            "init_cfg load_from checkpoint",
        ),
        *_share(
            "backbone.frozen_stages",
            "freeze freeze_at frozen freeze_layers freeze_backbone freeze_encoder "
            "trainable_backbone_layers num_freeze_layers",
        ),
        *_share("backbone.drop_path", "drop_path_rate stochastic_depth stochastic_depth_prob"),
        *_share("backbone.norm=sync", "sync_bn sync_batchnorm"),
        *_share("backbone.norm=frozen", "freeze_bn frozen_bn norm_eval"),
        *_share(
            "backbone.gradient_checkpointing",
            "grad_checkpointing activation_checkpointing use_checkpoint with_cp",
        ),
        *_share("backbone.output_stride", "dilation replace_stride_with_dilation encoder_stride"),
        *_share(f"heads.{HEAD}.type", "decoder decoder_name detector head head_type head_name"),
        *_share(
            f"heads.{HEAD}.classes",
            "num_classes n_classes nc names class_names category_names metainfo",
        ),
        *_share(
            f"heads.{HEAD}.options.score_threshold",
            "conf conf_thres conf_threshold confidence score_thr score_thresh score_thresh_test "
            "score_threshold box_score_thresh confidence_threshold",
        ),
        *_share(
            f"heads.{HEAD}.options.nms_iou",
            "iou iou_thres iou_threshold nms_thresh nms_thresh_test nms_threshold box_nms_thresh",
        ),
        *_share(f"heads.{HEAD}.options.anchor_sizes", "anchors anchor_scales anchor_generator"),
        *_share(f"heads.{HEAD}.options.decoder_channels", "decoder_channels"),
        *_share(f"heads.{HEAD}.lr_scale", f"heads.{HEAD}.lr heads.{HEAD}.learning_rate".lower()),
        *_share(f"heads.{HEAD}.loss_weight", f"heads.{HEAD}.weight heads.{HEAD}.scale".lower()),
        # Data.
        *_share(
            "data.root",
            "data data_root data_path data_dir data_folder dataset dataset_path dataset_dir "
            "dataset_root dataroot root_dir data.path data.dir data.folder data.dataset",
        ),
        *_share(
            "data.train.0.annotations",
            "train_data train_ann train_ann_file train_annotations train_file train_json "
            "train_path ann_file annotation_file annotations_file data.annotation "
            "data.train.0.file data.train.0.path data.train.0.json",
        ),
        *_share(
            "data.val.0.annotations",
            "val_data val_ann val_ann_file val_annotations val_file val_json val_path data.valid "
            "data.validation data.val.0.file data.val.0.path data.val.0.json",
        ),
        *_share(
            "data.train.0.images",
            "img_dir img_path img_prefix image_dir image_path image_folder images_dir data_prefix",
        ),
        *_share(
            _SIZE,
            "imgsz img_size img_scale image_size input_size resolution size crop_size min_size "
            "min_size_train max_size image_min_size",
        ),
        *_share("data.scales", "multi_scale multiscale scale_jitter"),
        *_share(
            "data.tiles={height: 512, width: 512}", "tile tile_size patch_size slice_size slices"
        ),
        *_share("data.workers", "num_workers n_workers workers_per_gpu dataloader_num_workers"),
        *_share("data.cache", "cache_images cache_type"),
        *_share("data.normalize", "normalization normalise img_norm_cfg pixel_mean pixel_std"),
        *_share("data.channels", "in_channels in_chans num_channels n_channels input_channels"),
        *_share(
            "data.repeat_factor", "oversample oversampling repeat_thresh repeat_threshold sampler"
        ),
        *_share(
            "augment",
            "augmentation augmentations aug transform transforms train_transforms train_pipeline "
            "pipeline fliplr flipud hflip hsv_h hsv_s hsv_v degrees shear mosaic mixup",
        ),
        # Evaluation.
        *_share(
            "evaluation.best", "monitor save_best metric metrics metric_for_best_model main_metric"
        ),
        # Options of `finetune` instead of keys.
        *_share("--out", "output_dir out_dir work_dir save_dir project default_root_dir exp_name"),
        *_share("--resume", "resume resume_from resume_from_checkpoint ckpt_path auto_resume"),
        *_share("--folds", "k_folds n_folds num_folds n_splits cross_validation"),
        *_share("--seeds", "n_seeds num_seeds"),
        # Keys of earlier versions.
        ("data.bad_pictures", ("data.unreadable_images",)),
        ("data.bad_pictures_limit", ("data.unreadable_images_limit",)),
        ("data.copy_paste.share", ("data.copy_paste.fraction",)),
    )
)
"""Key of another framework or an earlier version -> keys of a recipe.

A key with dots means that path only, a key without dots every path that ends with it. A
target may include a value, or be an option of `finetune`.
"""

OPTIONS: Mapping[str, Names] = dict(
    (
        *_share(("RECIPE", "RUN"), "config config_file cfg recipe"),
        *_share(("RUN",), "model weights checkpoint_path run run_dir model_path"),
        *_share(("--checkpoint",), "ckpt which"),
        *_share(("IMAGES", "SOURCE", "--source"), "source input inputs image images img img_path"),
        *_share(
            ("--out", "OUT"),
            "output output_dir out_dir outdir work_dir save_dir project dest destination target o",
        ),
        *_share(
            ("--score",),
            "conf conf_thres conf_threshold confidence threshold score_thr score_thresh "
            "score_threshold min_score",
        ),
        *_share(("--resume",), "resume_from resume_from_checkpoint ckpt_path"),
        *_share(("--folds",), "k_folds n_folds num_folds n_splits"),
        *_share(("--tta",), "augment test_time_augmentation"),
        *_share(("--tiles",), "tile tile_size slice_size patch_size window window_size sahi"),
        *_share(("--every",), "vid_stride frame_stride stride"),
        *_share(("--calibrated",), "calibrate calibration"),
        *_share(("--images",), "img_dir image_dir image_folder images_dir img_prefix"),
        *_share(("--annotations",), "ann ann_file annotation annotation_file data gt"),
        *_share(("--truth",), "ground_truth gt gt_file"),
        *_share(("--results",), "predictions pred preds dt dt_file"),
        *_share(("--format",), "formats type export_format"),
        *_share(("--overwrite",), "force exist_ok replace"),
        *_share(("--data-root",), "root data_path data_dir dataset_root"),
        *_share(("--dry-run",), "fast_dev_run dry"),
        *_share(("--evaluation", "--split"), "eval evaluation"),
        *_share(("--class",), "classes class_name category target_class"),
        *_share(("--seeds",), "n_seeds num_seeds"),
        *_share(("data.root",), "data dataset"),
        *_share(("--version",), "v"),
    )
)
"""Option of another tool -> options, arguments (in capitals) and keys that replace it."""


def normalize_name(name: str) -> str:
    """Return a name as the tables store it: lower case, with `_` instead of `-`."""
    return name.lower().replace("-", "_")


def find_keys(path: str) -> Names:
    """Return the targets of a key path in `KEYS`; the complete path comes before its last name."""
    name = normalize_name(path)
    return KEYS.get(name) or KEYS.get(name.rpartition(".")[2], ())
