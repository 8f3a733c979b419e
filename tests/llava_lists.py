"""The argument lists of LLaVA's scripts/v1_5, but for its paths, and every field of its argument classes."""


def _words(text: str) -> list[str]:
    return text.split()


_BOTH = """
    --vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2
    --mm_use_im_start_end False --mm_use_im_patch_token False --bf16 True --num_train_epochs 1
    --per_device_eval_batch_size 4 --evaluation_strategy no --save_strategy steps --save_total_limit 1
    --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True
    --report_to wandb --gradient_accumulation_steps 1
"""
_TUNING = """
    --deepspeed ./scripts/zero3.json --version v1 --data_path ./playground/data/llava_v1_5_mix665k.json
    --image_folder ./playground/data --image_aspect_ratio pad --group_by_modality_length True
    --per_device_train_batch_size 16 --save_steps 50000
"""
_LORA = "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --learning_rate 2e-4"
_FROM_STAGE_1 = """
    --model_name_or_path lmsys/vicuna-13b-v1.5
    --pretrain_mm_mlp_adapter ./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin
"""
PRETRAIN = _words(
    _BOTH
    + """
    --deepspeed ./scripts/zero2.json --model_name_or_path lmsys/vicuna-13b-v1.5 --version plain
    --data_path ./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json
    --image_folder ./playground/data/LLaVA-Pretrain/images --tune_mm_mlp_adapter True
    --output_dir ./checkpoints/llava-v1.5-13b-pretrain --per_device_train_batch_size 32 --save_steps 24000
    --learning_rate 1e-3
"""
)
FINETUNE = _words(f"{_BOTH} {_TUNING} {_FROM_STAGE_1} --output_dir ./checkpoints/llava-v1.5-13b --learning_rate 2e-5")
FINETUNE_LORA = _words(f"{_LORA} {_BOTH} {_TUNING} {_FROM_STAGE_1} --output_dir ./checkpoints/llava-v1.5-13b-lora")
FINETUNE_TASK_LORA = _words(
    f"{_LORA} {_BOTH} {_TUNING} --model_name_or_path liuhaotian/llava-v1.5-13b "
    "--output_dir ./checkpoints/llava-v1.5-13b-task-lora"
)

FIELDS = {
    "ModelArguments": _words(
        """model_name_or_path version freeze_backbone tune_mm_mlp_adapter vision_tower mm_vision_select_layer
        pretrain_mm_mlp_adapter mm_projector_type mm_use_im_start_end mm_use_im_patch_token mm_patch_merge_type
        mm_vision_select_feature"""
    ),
    "DataArguments": _words(
        "data_path lazy_preprocess is_multimodal image_folder image_aspect_ratio image_grid_pinpoints"
    ),
    "TrainingArguments": _words(
        """cache_dir optim remove_unused_columns freeze_mm_mlp_adapter mpt_attn_impl model_max_length double_quant
        quant_type bits lora_enable lora_r lora_alpha lora_dropout lora_weight_path lora_bias mm_projector_lr
        group_by_modality_length"""
    ),
}


def with_paths(words: list[str], **paths: object) -> list[str]:
    """The list with other values at some of its flags; all else is unchanged."""
    changed = list(words)
    for name, value in paths.items():
        places = [index for index, word in enumerate(changed) if word == f"--{name}"]
        assert places, name
        for index in places:
            changed[index + 1] = str(value)
    return changed
