//! Which of the processor's instructions the page codec may use.

use llm_core::page::Features;

/// The widest that this processor has and the kernel keeps the registers of.
#[must_use]
pub fn features() -> Features {
    available().last().copied().unwrap_or(Features::PORTABLE)
}

/// All that this processor has beside [`Features::PORTABLE`], the widest last.
#[must_use]
pub fn available() -> Vec<Features> {
    #[allow(unused_mut, reason = "there is nothing but the portable one elsewhere")]
    let mut widths = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
        if avx2 {
            // SAFETY: all that is asked for was detected, the kernel's part included.
            widths.push(unsafe { Features::avx2() });
        }
        let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vbmi") && has!("avx512vbmi2");
        if avx512 {
            // SAFETY: as above.
            widths.push(unsafe { Features::avx512() });
        }
    }
    widths
}
