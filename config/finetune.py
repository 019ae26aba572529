"""Fine-tuning: train a network further, on another text.

The network's shape is the checkpoint's. The new text needs the checkpoint's vocabulary:

    python prepare_shakespeare.py --source my.txt --dataset my \
        --vocab data/shakespeare_char/meta.json
    python train.py config/finetune.py --dataset=my
"""

init_from = "out/shakespeare_cpu/ckpt.pt"  # the weights to start from
dataset = "my"  # the new text's folder under data/

# Few steps at a low rate: the network should adapt to the new text and keep what it knows.
batch_size = 12
max_iters = 300  # watch the validation loss: it rises when the network overfits the new text
learning_rate = 3e-4  # far below the first training's; with a higher one it forgets more
warmup_iters = 10
min_lr = 3e-5
dropout = 0.1  # the new text is probably small

eval_interval = 50  # often enough to catch the lowest validation loss
eval_iters = 5
