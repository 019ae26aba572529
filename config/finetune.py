"""Fine-tuning: a network that was trained on one text goes on with another.

The network's shape is the checkpoint's. The new text needs the checkpoint's characters:

    python prepare_shakespeare.py --source my.txt --dataset my \
        --vocab data/shakespeare_char/meta.json
    python train.py config/finetune.py --dataset=my
"""

init_from = "out/shakespeare_cpu/ckpt.pt"  # what to start from
dataset = "my"  # the new text's folder under data/

# Few steps at a low rate: the network should pick up the new text and keep what it knows.
batch_size = 12  # as it was trained with; more is steadier
max_iters = 300  # watch the validation loss: it turns when the new text is learned by heart
learning_rate = 3e-4  # a third of what it was trained with; higher forgets more
warmup_iters = 10  # AdamW starts afresh, so its averages are young again
min_lr = 3e-5  # a tenth of learning_rate, reached at max_iters
dropout = 0.1  # the new text is likely small

eval_interval = 50  # often enough to catch the moment at which the validation loss turns
eval_iters = 5  # batches in the estimate of the training loss
