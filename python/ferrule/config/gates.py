"""The feature gates that kube-proxy 1.37.2 knows: the names a cluster's configuration may carry.

Ferrule has no gates of its own; the functions below evaluate those that it supports. An unknown name is rejected, and
so is changing a locked gate; any other is accepted, because the same map is often passed to every component of a
cluster. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

FREE = frozenset(
    """
    APIResponseCompression APIServerIdentity APIServerWebhookAuthenticationToken APIServingWithRoutine AllAlpha AllBeta
    AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests AllowParsingUserUIDFromCertAuth
    AllowServiceExternalIPs AllowUnsafeMalformedObjectDeletion AtomicFIFO AtomicWriteVolumeUserFields
    AuthorizePodWebsocketUpgradeCreatePermission CBORServingAndStorage CPUManagerPolicyAlphaOptions
    CPUManagerPolicyBetaOptions CRDObservedGenerationTracking CRIListStreaming CSIVolumeHealth
    ChangeContainerStatusOnKubeletRestart ClearingNominatedNodeNameAfterBinding ClientsAllowCARotation ClientsAllowCBOR
    ClientsAllowTLSCacheGC ClientsPreferCBOR CloudControllerManagerWatchBasedRoutesReconciliation
    CloudControllerManagerWebhook ClusterTrustBundle ClusterTrustBundleProjection ComponentFlagz ComponentStatusz
    CompositePodGroup ConcurrentWatchObjectDecode ConsistentListFromCacheSkipTimeoutFallback ConstrainedImpersonation
    ContainerCheckpoint ContainerRestartRules ContainerStopSignals ContextualLogging CoordinatedLeaderElection
    CrossNamespaceVolumeDataSource CustomCPUCFSQuotaPeriod DRAConsumableCapacity DRADerivedAttributes
    DRADeviceBindingConditions DRADeviceCompatibilityGroups DRADeviceTaintRules DRADeviceTaints
    DRAFractionalCapacityRange DRAListTypeAttributes DRANodeAllocatableResources DRAOptionalNodeOperations
    DRAPartitionableDevices DRAPartitionableDevicesType DRAResourceClaimGranularStatusAuthorization
    DRAResourcePoolStatus DRASchedulerFilterTimeout DRAWorkloadResourceClaims DeclarativeValidationBeta
    DefaultPodSysctls DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency EmptyDirVolumeMode EnvFiles
    EtcdRangeStream EventedPLEG EvictionRequestAPI ExcludeAdmissionWebhookVirtualResources ExtendWebSocketsToKubelet
    GRPCContainerProbeTLS GenericWorkload GracefulNodeShutdown GracefulNodeShutdownBasedOnPodPriority H2CContainerProbe
    HPAGeneration HPAOptimizedSelectorStore HPAScaleToZero HugepageAwareEviction ImageVolumeWithDigest
    InOrderInformersBatchProcess InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScalingExclusiveCPUs
    InPlacePodVerticalScalingExclusiveMemory InPlacePodVerticalScalingMemoryBackedVolumes
    InPlacePodVerticalScalingSchedulerPreemption InformerResourceVersion InterPodAffinityHostnameFastPath KMSv1
    KubeProxyIPVS KubeProxyNFTablesLocalhostNodePorts KubeletAllocatedPodsEndpoint KubeletCrashLoopBackOffMax
    KubeletEnsureSecretPulledImages KubeletInUserNamespace KubeletPodResourcesListUseActivePods
    KubeletRegistrationGetOnExistsOnly KubeletSeparateDiskGC KubeletServiceAccountTokenForCredentialProviders
    ListFromCacheSnapshot LocalStorageCapacityIsolationFSQuotaMonitoring LoggingAlphaOptions LoggingBetaOptions
    ManifestBasedAdmissionControlConfig MatchLabelKeysInPodTopologySpread MatchLabelKeysInPodTopologySpreadSelectorMerge
    MaxUnavailableStatefulSet MemoryQoS MutablePVNodeAffinity MutablePodResourcesForSuspendedJobs
    MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NFTablesNetlink NativeHistograms
    NodeControllerLeaseCircuitBreaker NodeLifecycleConditions NominatedNodeNameForExpectation OpenAPIEnums
    OpportunisticBatching PersistentVolumeClaimUnusedSinceTime PodAndContainerStatsFromCRI PodCertificateRequest
    PodDeletionCost PodGroupPreemptionPolicy PodLevelResourceManagers PodLevelResources PodLevelResourcesFixDefaulting
    PodLevelResourcesFixKubeletQOSClass PodLogsQuerySplitStreams PodTopologyLabelsAdmission PodsAPI
    PortForwardWebsockets QOSReserved ReduceDefaultCrashLoopBackOffDecay ReloadKubeletClientCAFile
    ReloadKubeletServerCertificateFile RemoteRequestHeaderUID ResourceHealthStatus ResourceHealthStatusMessage
    RestartAllContainersOnContainerExits RotateKubeletServerCertificate RuntimeClassInImageCriApi SELinuxMount
    SchedulerAsyncAPICalls SchedulerAsyncPreemption SchedulerPopFromBackoffQ SchedulerPreQueueingHints
    ServiceAccountNodeAudienceRestriction ServiceCIDRStatusFieldWiping ShardedListAndWatch SizeBasedListCostEstimate
    StaleControllerConsistencyDaemonSet StaleControllerConsistencyHPA StaleControllerConsistencyJob
    StaleControllerConsistencyReplicaSet StaleControllerConsistencyStatefulSet StatefulSetRecreateStrategy
    StatefulSetSemanticRevisionComparison StorageCapacityScoring StorageNamespaceIndex StorageVersionAPI
    StorageVersionHash StorageVersionMigrator StrictIPCIDRValidation StructuredAuthenticationConfigurationEgressSelector
    StructuredAuthenticationConfigurationJWKSMetrics TaintTolerationComparisonOperators
    TokenRequestServiceAccountUIDValidation TopologyAwareWorkloadScheduling TopologyManagerPolicyAlphaOptions
    TopologyManagerPolicyBetaOptions TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation
    UnknownVersionInteroperabilityProxy UnlockWhileProcessingFIFO UserNamespacesHostNetworkSupport
    VolumeBindMountOptions VolumeLimitScaling WatchList WatchListClient WatchListCompression
    WebhookRoundTripLoadBalancing WindowsCPUAndMemoryAffinity WindowsGracefulNodeShutdown WindowsHostNetwork
    WorkloadWithJob
    """.split()  # noqa: SIM905 - easier to read than two hundred quoted names
)
"""Gates that may have either value."""

LOCKED_ON = frozenset(
    """
    AggregatedDiscoveryRemoveBetaType CPUManagerPolicyOptions CRDValidationRatcheting CSIServiceAccountTokenSecrets
    CustomResourceFieldSelectors DRAAdminAccess DRAExtendedResource DRAPrioritizedList DRAResourceClaimDeviceStatus
    DeclarativeValidation DisableAllocatorDualWrite DisableCPUQuotaWithExclusiveCPUs DisableNodeKubeProxyVersion
    DynamicResourceAllocation ExecProbeTimeout ExternalServiceAccountTokenSigner HPAConfigurableTolerance
    HostnameOverride ImageMaximumGCAge ImageVolume InOrderInformers InPlacePodVerticalScaling
    InPlacePodVerticalScalingInitContainers JobManagedBy KubeletCgroupDriverFromCRI KubeletFineGrainedAuthz KubeletPSI
    KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletTracing MatchLabelKeysInPodAffinity
    MultiCIDRServiceAllocator MutableCSINodeAllocatableCount NFTablesProxyMode NodeDeclaredFeatures
    NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap PLEGOnDemandRelist PodObservedGenerationTracking
    PodReadyToStartContainersCondition PodSchedulingReadiness PreferSameTrafficDistribution ProcMountType
    RecoverVolumeExpansionFailure RecursiveReadOnlyMounts RelaxedEnvironmentVariableValidation
    RelaxedServiceNameValidation SELinuxChangePolicy SELinuxMountReadWriteOncePod SeparateTaintEvictionController
    ServiceAccountTokenJTI ServiceAccountTokenNodeBinding ServiceAccountTokenNodeBindingValidation
    ServiceAccountTokenPodNodeInfo SupplementalGroupsPolicy SystemdWatchdog TopologyManagerPolicyOptions
    UserNamespacesSupport VolumeAttributesClass WatchCacheInitializationPostStartHook WinDSR WinOverlay
    """.split()  # noqa: SIM905 - easier to read than two hundred quoted names
)
"""Gates locked to true."""

LOCKED_OFF = frozenset(
    """
    AllowOverwriteTerminationGracePeriodSeconds DeclarativeValidationTakeover GitRepoVolumeDriver SeparateCacheWatchRPC
    """.split()  # noqa: SIM905 - easier to read than two hundred quoted names
)
"""Gates locked to false."""


def faults(gates: Mapping[str, bool]) -> Iterator[str]:
    """Yields the faults that kube-proxy reports, with its messages."""
    for name, value in gates.items():
        if name in LOCKED_ON or name in LOCKED_OFF:
            locked = name in LOCKED_ON
            if value is not locked:
                told, kept = str(value).lower(), str(locked).lower()
                yield f"cannot set feature gate {name} to {told}, feature is locked to {kept}"
        elif name not in FREE:
            yield f"unrecognized feature gate: {name}"


def logging_alpha(gates: Mapping[str, bool]) -> bool:
    """Returns whether split streams and their buffers are enabled: kube-proxy's gate for them."""
    return gates.get("LoggingAlphaOptions", gates.get("AllAlpha", False))


def external_ips(gates: Mapping[str, bool]) -> bool:
    """Returns whether Services' externalIPs are programmed."""
    return gates.get("AllowServiceExternalIPs", True)


def page(name: str, gates: Mapping[str, bool]) -> bool:
    """Returns whether the page of `ComponentStatusz` or `ComponentFlagz` is served."""
    return gates.get(name, gates.get("AllBeta", True))


EFFECTIVE = frozenset(
    {"AllAlpha", "AllBeta", "AllowServiceExternalIPs", "ComponentFlagz", "ComponentStatusz", "LoggingAlphaOptions"}
)
"""Gates that affect ferrule."""
