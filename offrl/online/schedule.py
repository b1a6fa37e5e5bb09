"""How a run acts and learns online: one small table, [online] in run.toml."""

import math
from dataclasses import dataclass
from typing import Annotated

from offrl.algorithm import Configuration, Peers


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(Configuration):
    """Settings of acting while learning; steps are environment steps unless they say otherwise."""

    warmup: Annotated[
        int,
        "Steps of uniformly random actions before anything is learned.",
        Peers("learning_starts", "start_timesteps", "start_training", "random_steps"),
    ] = 0
    updates_per_step: Annotated[
        float,
        "Gradient steps for each environment step.",
        Peers("utd", "utd_ratio", "updates_per_env_step", "gradient_steps"),
    ] = 1.0
    mix: Annotated[
        float,
        "Share of every batch that comes from the logged data.",
        Peers("mixing_ratio", "offline_ratio", "offline_fraction"),
    ] = 0.0
    mix_steps: Annotated[int, "Steps after which no logged row is drawn any more; 0: never."] = 0
    replay_size: Annotated[
        int, "Transitions that are remembered.", Peers("buffer_size", "replay_buffer_size")
    ] = 1_000_000
    n_envs: Annotated[int, "Environments that are acted in.", Peers("num_envs", "n_workers")] = 1
    noise: Annotated[
        float,
        "Exploration of a deterministic policy: standard deviation in half ranges.",
        Peers("expl_noise", "exploration_noise", "action_noise"),
    ] = 0.1
    epsilon: Annotated[
        float,
        "Exploration of a greedy policy: share of random actions.",
        Peers("exploration_final_eps", "final_epsilon", "eps"),
    ] = 0.05
    epsilon_steps: Annotated[
        int,
        "Steps in which epsilon falls from 1 to its value; 0: at once.",
        Peers("exploration_steps", "epsilon_decay_steps"),
    ] = 0
    floor: Annotated[
        float,
        "Return below which an evaluation stops the run and brings back the best policy.",
        Peers("min_return", "safety_threshold"),
    ] = -math.inf
    reset_optimizer: Annotated[bool, "Forget Adam's averages of the offline run."] = False
    eval_every: Annotated[int, "Steps between evaluations; 0: a twentieth of all."] = 0
    eval_episodes: Annotated[int, "Episodes of each evaluation."] = 10
    log_every: Annotated[int, "Steps between rows of metrics.csv; 0: a two-hundredth of all."] = 0
    save_every: Annotated[int, "Steps between checkpoints; 0: a tenth of all."] = 0

    def rules(self) -> dict[str, tuple[bool, str]]:
        least = {"replay_size": 1, "n_envs": 1, "eval_episodes": 1}
        counts = ("warmup", "mix_steps", "epsilon_steps", "eval_every", "log_every", "save_every")
        whole = {name: (getattr(self, name) >= 0, "0 or more") for name in counts}
        whole |= {name: (getattr(self, name) >= k, f"at least {k}") for name, k in least.items()}
        return whole | {
            "updates_per_step": (self.updates_per_step > 0, "above 0"),
            "mix": (0 <= self.mix <= 1, "a share from 0 to 1"),
            "floor": (self.floor < math.inf, "a return"),
            "noise": (self.noise >= 0, "0 or more"),
            "epsilon": (0 <= self.epsilon <= 1, "a share from 0 to 1"),
        }
